"""Samples of a model: read from an npz file, or generated from the signature; and written."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.source.allowed import drawn, refuse_others
from orchestrator.spec.random_mark import RANDOM, is_random
from orchestrator.spec.sample_arrays import LABELS, ArrayHeader, sample_problems
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import RandomSamplesParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.signature import Tensor
    from orchestrator.steps.context import StepContext

__all__ = [
    "FLOAT_RANGE",
    "LABELS",
    "LARGEST_INTEGER",
    "STRING",
    "Array",
    "IntegerRange",
    "Samples",
    "dtype_name",
    "element_bytes",
    "plain",
    "random_samples",
    "read_samples",
    "take_rows",
    "write_npz",
    "write_random",
    "write_random_texts",
]

STRING = "string"
"""Its arrays are unicode (kind `U`), which npz files store without pickling; its zero is the empty text."""

_TEXT_BYTES = 64
"""The assumed size of a text: a word or two, with four bytes per character."""


def dtype_name(array: np.ndarray[Any, Any]) -> str:
    """The element type of `array` as in a spec."""
    return STRING if array.dtype.kind in "UO" else array.dtype.name


def element_bytes(dtype: str) -> int:
    """The size of an element of this type, bytes; an estimate for texts."""
    return _TEXT_BYTES if dtype == STRING else np.dtype(dtype).itemsize


def plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Arrays of Python objects, in which runtimes return texts, as arrays of unicode; all others unchanged."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array


Array = np.ndarray[Any, Any]

FLOAT_RANGE = 3.0
"""Random floats are in [-3, 3]."""

LARGEST_INTEGER = 1_000_000
"""Random integers of wide types lie between this and its negative: float32 counts so far, and a sum of thousands fits."""

LONGEST_WORD = 8
"""Random texts are words of lower-case letters, at most this long."""

RANDOM_ROWS = 32
RANDOM_INNER_SIZE = 32
MAX_BYTES = 256 * 2**20
_AT = ("model", "samples")


@dataclass(frozen=True, slots=True)
class IntegerRange:
    """The integers from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows of inputs.

    Attributes:
        inputs: by name, in the signature's dtypes, each with a leading row axis; for a model with a batch dimension, this
            axis is the batch; for others, it is added before the input's shape.
        labels: the expected class of each row, if known.
        real: whether the user provided them; random ones prove less.
        notes: changes to them that the user should know about.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    real: bool
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.inputs.values())))


def take_rows(samples: Samples, rows: Array | slice) -> dict[str, Array]:
    """The inputs of just these rows."""
    return {name: array[rows] for name, array in samples.inputs.items()}


def read_samples(path: Path, signature: Signature, max_rows: int) -> Samples:
    """The first `max_rows` rows of an npz file, checked against the signature.

    Nothing in the file is executed: arrays of Python objects are refused.

    Raises:
        StepError: E340 not an npz file, E341 an input is missing, E342 wrong dtype, E343 wrong shape, E344 wrong number
            of rows, E345 not exactly one label for each row, E346 an input holds what the spec does not allow.
    """
    arrays = _load(path)
    for problem in sample_problems({name: _header(array) for name, array in arrays.items()}, signature):
        raise StepError(problem.code, problem.message, cause=problem.cause, remedy=problem.remedy, at=problem.at)
    notes: list[str] = []
    inputs = {tensor.name: _cast(tensor, arrays[tensor.name], notes) for tensor in signature.inputs}
    rows = len(next(iter(inputs.values())))
    labels = None if LABELS in inputs else arrays.get(LABELS)
    notes.extend(
        f"samples: `{name}` is not an input of the model and was ignored"
        for name in sorted(set(arrays) - set(inputs) - {LABELS})
    )
    if rows > max_rows:
        notes.append(f"samples: the first {max_rows} of {rows} rows are used")
    row_bytes = max(1, sum(array[0].nbytes for array in inputs.values()))
    fitting = max(1, MAX_BYTES // row_bytes)
    if min(rows, max_rows) > fitting:
        notes.append(f"samples: only the first {fitting} rows are used; more would exceed {MAX_BYTES >> 20} MiB")
    used = slice(0, min(max_rows, fitting))
    real = not is_random(path)
    if real:
        refuse_others(inputs, signature)
    else:
        notes.append("samples: the file holds the random inputs that `mlo init` made, not real ones")
    samples = Samples(inputs, labels, real=real, notes=tuple(notes))
    return replace(samples, inputs=take_rows(samples, used), labels=None if labels is None else labels[used])


_NO_RANGES: Mapping[str, IntegerRange] = MappingProxyType({})


def random_samples(
    signature: Signature,
    seed: int,
    ranges: Mapping[str, IntegerRange] = _NO_RANGES,
    rows: int = RANDOM_ROWS,
    inner_batch: str | None = None,
) -> Samples:
    """Random rows within the signature, the same for the same seed; without a batch dimension, each is a whole request.

    Floats are normal with standard deviation 1, cut at 3; texts are words that mean nothing.
    Named dimensions other than the batch are 32, or as near to it as their range allows. Inputs whose `range` or `values` the
    spec gives hold only such, both ends included.

    Args:
        signature: with its inputs.
        seed: of what is random.
        ranges: of integer inputs, by name; both ends of each are drawn. One that is left out is 0 or 1.
        rows: how many at most.
        inner_batch: a dimension that counts rows and is not the first; a request has as few as it can.
    """
    random = np.random.default_rng(seed)
    notes = ["samples: none are given, so the inputs are random"]
    sizes = {name: signature.fitting(name, 1 if name == inner_batch else RANDOM_INNER_SIZE) for name in signature.dims}
    shapes = {tensor.name: row_shape(tensor, signature, sizes) for tensor in signature.inputs}
    row_bytes = sum(element_bytes(t.dtype) * int(np.prod(shapes[t.name])) for t in signature.inputs)
    rows = max(1, min(rows, MAX_BYTES // max(1, row_bytes)))
    inputs: dict[str, Array] = {}
    for tensor in signature.inputs:
        shape = rows, *shapes[tensor.name]
        if tensor.allowed is not None:
            inputs[tensor.name] = drawn(random, tensor.allowed, tensor.dtype, shape)
            continue
        if tensor.dtype == STRING:
            inputs[tensor.name] = _words(random, shape)
            notes.append(f"samples: what the text input `{tensor.name}` contains is unknown; random words are used")
            continue
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            inputs[tensor.name] = random.standard_normal(shape).clip(-FLOAT_RANGE, FLOAT_RANGE).astype(dtype)
            continue
        if tensor.name in ranges:
            inputs[tensor.name] = _integers(random, ranges[tensor.name], shape).astype(dtype)
            continue
        inputs[tensor.name] = random.integers(0, 2, shape).astype(dtype)
        if dtype.kind != "b":
            notes.append(f"samples: the range of the integer input `{tensor.name}` is unknown; 0 and 1 are used")
    return Samples(inputs, None, real=False, notes=tuple(notes))


def _integers(random: np.random.Generator, drawn: IntegerRange, shape: tuple[int, ...]) -> Array:
    """Integers from the range, its ends first: all equally often, or of a wide type each number of digits equally often."""
    if drawn.high < LARGEST_INTEGER:
        values = random.integers(drawn.low, drawn.high, shape, endpoint=True)
    else:
        values = np.expm1(random.random(shape) * np.log1p(LARGEST_INTEGER)).astype(np.int64)
        values = np.where(random.random(shape) < 0.5, values, -values).clip(drawn.low, drawn.high)
    values.reshape(-1)[:2] = (drawn.low, drawn.high)[: values.size]
    return values


def _words(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    letters = random.integers(ord("a"), ord("z") + 1, (*shape, LONGEST_WORD), dtype=np.uint32)
    # A character in numpy's unicode is a 32-bit code; trailing zeros are padding.
    letters[np.arange(LONGEST_WORD) >= random.integers(2, LONGEST_WORD + 1, (*shape, 1))] = 0
    return letters.view(f"U{LONGEST_WORD}").reshape(shape)


def row_shape(tensor: Tensor, signature: Signature, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of one row of an input: without the batch dimension, if the model has one."""
    return signature.shape_at(tensor, sizes)[0 if signature.batch is None else 1 :]


def _load(path: Path) -> dict[str, Array]:
    remedy = "save the inputs with numpy.savez(path, NAME=array, ...), as plain numbers, or texts as array.astype(str)"
    try:
        with path.open("rb") as opened:  # numpy leaves it open when the archive is damaged
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise StepError("E340", "the samples are a single array, not an npz file", remedy=remedy, at=_AT)
            return {name: _array(file, name, remedy) for name in file.files}
    # numpy treats a file that is not a zip as a pickle and refuses it with a ValueError; a truncated file ends early.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        empty = path.is_file() and path.stat().st_size == 0
        cause = "the file is empty" if empty else headline(error)
        if "allow_pickle" in cause:
            cause = "it is neither a zip archive of arrays nor an array"
        raise StepError("E340", "the samples are not an npz file", cause=cause, remedy=remedy, at=_AT) from error


def _header(array: Array) -> ArrayHeader:
    return ArrayHeader(array.dtype.kind, str(array.dtype), array.shape)


def _array(file: Mapping[str, Array], name: str, remedy: str) -> Array:
    try:
        return file[name]
    except ValueError as error:
        objects = "it holds Python objects, which would have to be unpickled"
        raise StepError(
            "E340",
            f"the samples' array `{name}` cannot be read",
            cause=objects if "allow_pickle" in str(error) else headline(error),
            remedy=remedy,
            at=_AT,
        ) from error


def _cast(tensor: Tensor, array: Array, notes: list[str]) -> Array:
    if tensor.dtype == STRING:
        return _texts(tensor, array, notes)
    wanted = np.dtype(tensor.dtype)
    if array.dtype == wanted:
        return np.asarray(array, order="C")
    cast: Array | None = None
    if array.dtype.kind in "iub" or (array.dtype.kind == "f" and wanted.kind == "f"):
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        # Integers must not change; floats may lose precision, but must not overflow.
        same = np.isfinite(cast) == np.isfinite(array) if wanted.kind == "f" == array.dtype.kind else cast == array
        if not same.all():
            cast = None
    if cast is None:
        raise StepError(
            "E342",
            f"the samples' array `{tensor.name}` is {array.dtype}, but the input is declared {tensor.dtype}",
            cause="the values cannot be cast without changing them",
            remedy=f"save it as {tensor.dtype}, or declare its type in `inputs:`",
            at=_AT,
        )
    notes.append(f"samples: `{tensor.name}` was cast from {array.dtype} to {tensor.dtype}")
    return cast


def _texts(tensor: Tensor, array: Array, notes: list[str]) -> Array:
    cause = f"it is {array.dtype}, which is not text"
    if array.dtype.kind == "U":
        return np.asarray(array, order="C")
    if array.dtype.kind == "S":
        try:
            decoded = np.strings.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            cause = f"its bytes are not UTF-8: {error}"
        else:
            notes.append(f"samples: the bytes of `{tensor.name}` were read as UTF-8")
            return np.asarray(decoded, order="C")
    raise StepError(
        "E342",
        f"the samples' array `{tensor.name}` does not hold texts, but the input is declared string",
        cause=cause,
        remedy="save it as array.astype(str), or declare its type in `inputs:`",
        at=_AT,
    )


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, reproducible byte for byte."""
    # numpy.savez takes names as keyword arguments beside its own, but a tensor may be called `file`.
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Without an explicit time, the entry has that of 1980, so the same arrays give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def write_random(context: StepContext) -> dict[str, Any]:
    """Step: write random samples to `samples.npz`."""
    parameters = RandomSamplesParameters.from_json(context.params)
    samples = random_samples(parameters.signature, parameters.seed, inner_batch=parameters.inner_batch)
    return _written(context, samples)


def write_random_texts(context: StepContext) -> dict[str, Any]:
    """Like `write_random`, but with sentences as tokens of a Transformers folder if the model takes tokens.

    Inputs: `weights`.

    Raises:
        StepError: E370-E379, the folder's configuration cannot be used.
    """
    from orchestrator.frameworks.transformers.folder import read_folder
    from orchestrator.frameworks.transformers.model import architecture
    from orchestrator.frameworks.transformers.samples import load_tokenizer, text_samples

    parameters = RandomSamplesParameters.from_json(context.params)
    if parameters.source is None:
        raise ValueError("texts are made by the tokenizer of a source, and the parameters name none")
    task = parameters.source.task
    folder = read_folder(context.inputs["weights"], task)
    built = architecture(folder, task)
    vocabulary = int(getattr(built.config, "vocab_size", 0))
    names = parameters.source.names.inputs
    tokenizer = load_tokenizer(folder)
    return _written(context, text_samples(parameters.signature, names, tokenizer, vocabulary, parameters.seed))


def _written(context: StepContext, samples: Samples) -> dict[str, Any]:
    file = context.output / "samples.npz"
    write_npz(file, samples.inputs)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = RANDOM
    return {"rows": samples.rows, "notes": list(samples.notes)}
