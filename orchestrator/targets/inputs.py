"""Reads the inputs of a call from a .json or .npz file and checks them against the model's signature."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.spec.signature import Signature, Tensor

__all__ = ["Requests", "read_requests"]

Array = np.ndarray[Any, Any]

_TEXT = "string"
_FORMS = '{"NAME": [[...]]}, {"inputs": {"NAME": [[...]]}} or a request of the Open Inference Protocol'


class _UnfitError(Exception):
    """What is wrong with the file, and where, in one line."""


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of a file.

    Attributes:
        inputs: of each request, by name.
        counted: whether the file's arrays have a dimension in front that counts requests, as samples do for a model without a
            batch dimension.
    """

    inputs: Sequence[dict[str, Array]]
    counted: bool


def read_requests(path: Path, signature: Signature) -> Requests:
    """The requests of a file: each has its inputs by name, in the signature's order, in its dtypes, with the batch dimension.

    A single row without its batch dimension gets one, if that holds for all inputs. Without a batch dimension, arrays may have
    one more dimension in front, which counts requests.

    Raises:
        UsageError: E614 the file cannot be read, or does not fit the signature.
    """
    found = _read(path, signature)
    try:
        count = _count(found, signature)
        if count is None:
            return Requests([_shaped(found, signature)], counted=False)
        calls = ({name: np.asarray(array[number]) for name, array in found.items()} for number in range(count))
        return Requests([_shaped(call, signature) for call in calls], counted=True)
    except _UnfitError as error:
        raise _failure(path, str(error), signature) from error


def _read(path: Path, signature: Signature) -> dict[str, Array]:
    """The inputs by name, in the signature's order and in its dtypes.

    A JSON file holds `{name: nested lists}`, the same below `"inputs"`, or a request of the Open Inference Protocol v2.
    An .npz file may hold more arrays, such as labels; they are not read.

    Raises:
        UsageError: E614 the file cannot be read, or does not fit the signature.
    """
    try:
        found = _read_npz(path, signature) if path.suffix == ".npz" else _read_json(path, signature)
        _check_names(found, signature)
        return {tensor.name: _typed(tensor, found[tensor.name]) for tensor in signature.inputs}
    except OSError as error:
        raise _unreadable(path, error, signature) from error
    except _UnfitError as error:
        raise _failure(path, str(error), signature) from error


def _count(arrays: Mapping[str, Array], signature: Signature) -> int | None:
    """How many requests the inputs hold; None if the file is a single request without a dimension that counts them."""
    ranks = {tensor.name: len(tensor.shape or ()) for tensor in signature.inputs}
    if signature.batch is not None or any(array.ndim != ranks[name] + 1 for name, array in arrays.items()):
        return None
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise _UnfitError(f"its inputs hold different numbers of requests: {', '.join(map(str, sorted(counts)))}")
    if 0 in counts:
        raise _UnfitError("it holds no requests")
    return counts.pop()


def _check_names(found: Mapping[str, Array], signature: Signature) -> None:
    named = [tensor.name for tensor in signature.inputs]
    for name in named:
        if name not in found:
            raise _UnfitError(f"input {name} is missing; the file holds {', '.join(found) or 'nothing'}")
    for name in found:
        if name not in named:
            raise _UnfitError(f"the model has no input {name}")


def _read_npz(path: Path, signature: Signature) -> dict[str, Array]:
    if path.is_file() and not zipfile.is_zipfile(path):
        raise _UnfitError("it is not an .npz file, as numpy.savez writes it")
    try:
        # Opened here, since numpy leaves the file open when it is no archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _UnfitError("it is a single .npy array; inputs have names")
            wanted = [tensor.name for tensor in signature.inputs]
            if missing := [name for name in wanted if name not in archive.files]:
                holds = ", ".join(archive.files) or "nothing"
                raise _UnfitError(f"input {missing[0]} is missing; the file holds {holds}")
            return {name: archive[name] for name in wanted}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _UnfitError(f"it is not an .npz file of plain arrays: {error}") from error


def _read_json(path: Path, signature: Signature) -> dict[str, Array]:
    if path.suffix != ".json":
        raise _UnfitError("the file's name must end in .json or .npz")
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise _UnfitError("it is nested too deep") from error
    except ValueError as error:  # no UTF-8, or no JSON: the message has the line and column
        raise _UnfitError(f"it is not JSON: {error}") from error
    body = document.get("inputs", document) if isinstance(document, dict) else document
    texts = {tensor.name for tensor in signature.inputs if tensor.dtype == _TEXT}
    if isinstance(body, list) and isinstance(document, dict):
        return dict(_protocol_tensor(tensor, texts) for tensor in body)
    if not isinstance(body, dict):
        raise _UnfitError(f"it must hold {_FORMS}")
    return {name: _array(name, value, text=name in texts) for name, value in body.items()}


_NOT_FINITE = {None: np.nan, "NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
"""What JSON lacks, as mlo's server reads and writes it."""


def _is_not_finite(item: Any) -> bool:
    return item is None or (isinstance(item, str) and item in _NOT_FINITE)


def _protocol_tensor(tensor: Any, texts: set[str]) -> tuple[str, Array]:
    try:
        name, shape, data = str(tensor["name"]), tensor["shape"], tensor["data"]
    except (TypeError, KeyError) as error:
        raise _UnfitError('every entry of "inputs" needs "name", "shape" and "data"') from error
    array = _array(name, data, text=name in texts)
    try:
        return name, array.reshape(shape)
    except (TypeError, ValueError) as error:
        raise _UnfitError(f"input {name}: {array.size} elements do not fit the shape {shape}") from error


def _array(name: str, value: Any, *, text: bool) -> Array:
    try:
        # numpy would convert numbers beside texts to texts.
        array = np.array(value, dtype=object if text else None)
    except (ValueError, OverflowError) as error:
        raise _UnfitError(f"input {name}: its rows have different lengths") from error
    if text:
        if not all(isinstance(item, str) for item in array.flat):
            raise _UnfitError(f"input {name}: it holds a value that is not text")
        return array.astype(np.str_)
    if array.dtype.kind in "OU" and array.size:
        array = np.array(value, dtype=object)
        if not all(type(item) in (int, float) or _is_not_finite(item) for item in array.flat):
            raise _UnfitError(f"input {name}: it holds a value that is not a number")
        return np.array([_NOT_FINITE.get(item, item) for item in array.flat], np.float64).reshape(array.shape)
    if array.dtype.kind not in "biuf" and array.size:
        raise _UnfitError(f"input {name}: it holds a value that is not a number")
    return array


def _typed(tensor: Tensor, array: Array) -> Array:
    """The array in the tensor's dtype, if values change only by rounding."""
    if tensor.dtype == _TEXT:
        return _texts(tensor.name, array)
    if array.dtype.kind not in "biuf":
        raise _UnfitError(f"input {tensor.name}: it holds {array.dtype}, but the model takes {tensor.dtype}")
    wanted = np.dtype(tensor.dtype)
    # A JSON file has no dtypes: 1 may be meant as 1.0, and a whole 1.0 as 1.
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
    whole = wanted.kind in "iub"
    kept = np.array_equal(cast, array) if whole else bool(np.all(np.isfinite(cast) | ~np.isfinite(array)))
    if not kept:
        raise _UnfitError(f"input {tensor.name}: it holds numbers that {tensor.dtype} cannot hold")
    return cast


def _texts(name: str, array: Array) -> Array:
    try:
        found = np.strings.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise _UnfitError(f"input {name}: its bytes are not UTF-8: {error}") from error
    if found.dtype.kind != "U":
        raise _UnfitError(f"input {name}: it holds {array.dtype}, but the model takes texts")
    return found


def _shaped(arrays: dict[str, Array], signature: Signature) -> dict[str, Array]:
    """The arrays with their batch dimension, in shapes that the signature allows."""
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    if signature.batch is not None and all(
        (shape := tensors[name].shape) is not None and array.ndim == len(shape) - 1 for name, array in arrays.items()
    ):
        arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        shape = tensors[name].shape
        if shape is None:
            continue
        if array.ndim != len(shape):
            raise _UnfitError(f"input {name}: its shape is {list(array.shape)}, but the model takes {_spelled(shape)}")
        for size, dim in zip(array.shape, shape, strict=True):
            if isinstance(dim, str):
                if sizes.setdefault(dim, size) != size:
                    raise _UnfitError(f"input {name}: {dim} is {size} here and {sizes[dim]} in another input")
                _check_range(name, dim, size, signature)
            elif size != dim:
                raise _UnfitError(
                    f"input {name}: its shape is {list(array.shape)}, but the model takes {_spelled(shape)}"
                )
    return arrays


def _check_range(name: str, dim: str, size: int, signature: Signature) -> None:
    low, high = signature.dims[dim]
    # More rows than one call may have are sent in several calls.
    if size < low or (size > high and dim != signature.batch):
        raise _UnfitError(f"input {name}: {dim} is {size}, but the model takes {low} to {high}")
    if size % (step := signature.multiples.get(dim, 1)):
        raise _UnfitError(f"input {name}: {dim} is {size}, but the model takes multiples of {step}")


def _spelled(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _expected(signature: Signature) -> str:
    return ", ".join(
        f"{tensor.name}: {tensor.dtype} {_spelled(tensor.shape) if tensor.shape is not None else ''}".rstrip()
        for tensor in signature.inputs
    )


def _unreadable(path: Path, error: OSError, signature: Signature) -> UsageError:
    return UsageError(
        Diagnostic(
            "E614",
            f"{path} cannot be read",
            cause=error.strerror or str(error),
            remedy=f"give the path of a file with {_expected(signature)}, which you may read",
        )
    )


def _failure(path: Path, cause: str, signature: Signature) -> UsageError:
    return UsageError(
        Diagnostic(
            "E614",
            f"{path} does not hold the model's inputs",
            cause=cause,
            remedy=f"give {_expected(signature)}, as an .npz file or as JSON: {_FORMS}",
        )
    )
