"""Compares a model's outputs with those of its conversion at every size, and with its own in a repeated call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.allowed import nearest, zeros
from orchestrator.frameworks.source.edge_cases import EdgeCase, call_at, edge_cases, largest_size, sizes_of
from orchestrator.frameworks.source.padding import Padding, padding_of_difference
from orchestrator.frameworks.source.rounding import RowCheck, turned_rows
from orchestrator.frameworks.source.samples import random_samples
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.failures import is_out_of_memory, is_transient
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = [
    "Call",
    "MixedRows",
    "amplifies_rounding",
    "apart_by_first_dimension",
    "changing_output",
    "check_sizes",
    "close",
    "compared_sizes",
    "holds_rows",
    "padding_in_first_row",
    "row_mixing_output",
    "rows_in_two_batches",
    "trace_sizes",
    "turned",
    "with_second_row",
]

_LOOSE = 0.02
"""The tolerance, relative to the output's largest magnitude; for integers, the fraction of elements that may differ."""

_ROUNDINGS = 8
"""Roundings of float32, of an output's usual magnitude, that are no difference where the output is nearly zero."""

Call = Callable[[Mapping[str, "Array"]], Mapping[str, "Array"]]


def trace_sizes(samples: Samples, signature: Signature) -> dict[str, int]:
    """A size of every dimension for tracing: that of the samples, but at least 2 if the range allows it.

    Exporters treat a size of 0 or 1 as a constant.
    """
    sizes = sizes_of(samples, signature)
    return {dim: min(max(size, 2), signature.dims[dim][1]) for dim, size in sorted(sizes.items())}


def check_sizes(
    signature: Signature, samples: Samples, source: Call, converted: Call, *, other_magnitudes: bool = False
) -> list[str]:
    """Call both with zeros, extreme values, and the ends and some inner sizes of every dimension, separately and together.

    Args:
        signature: of both.
        samples: the values of the calls.
        source: the model.
        converted: what was made of it.
        other_magnitudes: whether they are also called with values of another magnitude and sign than the samples', for which
            a branch on values may go the other way.

    Returns:
        The names of the calls.

    Raises:
        StepError: E423, when shapes or values are off or one of the two raises. It names the dimension, unless a row alone shows
            the same: then it is about values, and not about sizes. Neither is meant where only padded positions differ.
    """
    done = []
    usual = source(call_at(samples, signature, sizes_of(samples, signature)))
    compared = _Compared(
        signature, samples, source, converted, {t.name: _noise(usual[t.name]) for t in signature.outputs}
    )
    cases = [*_cases(samples, signature), *(_other_magnitudes(samples, signature) if other_magnitudes else ())]
    for case in cases:
        try:
            expected = source(case.inputs)
        # A model may refuse extreme values and inner sizes with any exception, which `import` has reported; then there is
        # nothing to compare.
        except Exception as error:
            if (case.dim is None or case.inner) and not (is_out_of_memory(error) or is_transient(error)):
                continue
            raise _failed(f"the source model fails with {case.name}", case, headline(error)) from error
        compared.check(case, expected)
        done.append(case.name)
    return done


def _cases(samples: Samples, signature: Signature) -> Iterator[EdgeCase]:
    yield from edge_cases(samples, signature)
    if len(signature.dims) > 1:
        smallest = {dim: low for dim, (low, _) in signature.dims.items()}
        yield EdgeCase("every dimension at its smallest", call_at(samples, signature, smallest))
        largest = smallest
        for dim in signature.dims:
            largest = {**largest, dim: largest_size(signature, largest, dim)}
        yield EdgeCase("every dimension at its largest", call_at(samples, signature, largest))
    # Other values in the same shapes detect branches that tracing has fixed.
    for row in range(1, min(samples.rows, 4)):
        yield EdgeCase(f"sample {row}", call_at(samples, signature, sizes_of(samples, signature), row))


_FACTORS = ((255.0, "times 255"), (1 / 255, "divided by 255"), (-1.0, "negated"))
"""Images are the usual inputs that come in two ranges, 0 to 1 and 0 to 255."""


def _other_magnitudes(samples: Samples, signature: Signature) -> Iterator[EdgeCase]:
    """The first sample, scaled; none for a model without floating-point inputs."""
    call = call_at(samples, signature, sizes_of(samples, signature))
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    floats = [key for key, array in call.items() if array.dtype.kind == "f"]
    for factor, name in _FACTORS:
        scaled = {
            key: nearest((array * factor).astype(array.dtype), tensors[key]) if key in floats else array
            for key, array in call.items()
        }
        if any(not np.array_equal(scaled[key], call[key], equal_nan=True) for key in floats):
            yield EdgeCase(f"a sample {name}", scaled)


@dataclass(frozen=True, slots=True)
class _Compared:
    """A source and its conversion, compared in one call after the other.

    Attributes:
        noise: how far each output may always be off, since its arithmetic rounds as far: a saturated gate is not 0 but about it.
    """

    signature: Signature
    samples: Samples
    source: Call
    converted: Call
    noise: Mapping[str, float]

    def check(self, case: EdgeCase, expected: Mapping[str, Array]) -> None:
        """Compare one call.

        Raises:
            StepError: E423.
        """
        # Runtimes raise what their kernels raise.
        with refuse_as(Exception, lambda error: self._raised(case, headline(error))):
            actual = self.converted(case.inputs)
        for tensor in self.signature.outputs:
            one, other = expected[tensor.name], actual[tensor.name]
            if off := _difference(one, other, self.noise[tensor.name]):
                cause = f"output {tensor.name}: {off}"
                if padding := self._padding(case, tensor.name, one, other):
                    raise self._about_padding(case, tensor.name, padding, off)
                if case.dim is None:
                    raise self._about_values(f"the converted model differs from its source with {case.name}", cause)
                if one.shape == other.shape and self._differs_alone(case, _differing_rows(one, other)):
                    raise self._about_values("the converted model differs from its source for some values", cause)
                raise _failed(f"the converted model differs from its source with {case.name}", case, cause)

    def _raised(self, case: EdgeCase, cause: str) -> StepError:
        if case.dim is None:
            return self._about_values(f"the converted model fails with {case.name}, but its source does not", cause)
        if self._differs_alone(case, range(_ROWS_ALONE)):
            return self._about_values("the converted model fails for some values, but its source does not", cause)
        return _failed(f"the converted model fails with {case.name}, but its source does not", case, cause)

    def _padding(self, case: EdgeCase, name: str, one: Array, other: Array) -> Padding | None:
        def same(left: Array, right: Array) -> bool:
            return _difference(left, right, self.noise[name]) is None

        batched = self.signature.batch is not None
        found = padding_of_difference(case.inputs, one, other, same, batched=batched)
        if found is not None or case.dim is not None:
            return found
        # Where every input holds one value, such as 0, a mask marks all positions or none. Samples show where they differ.
        usual = call_at(self.samples, self.signature, compared_sizes(self.samples, self.signature))
        try:
            expected, actual = self.source(usual)[name], self.converted(usual)[name]
        # As above: then it is not about padding alone.
        except Exception:  # noqa: BLE001 - which is what is asked
            return None
        if same(expected, actual):
            return None
        return padding_of_difference(usual, expected, actual, same, batched=batched)

    def _about_padding(self, case: EdgeCase, output: str, padding: Padding, off: str) -> StepError:
        return StepError(
            "E423",
            f"the converted model differs from its source at padded positions only, with {case.name}",
            cause=f"output {output}, where `{padding.input}` is {padding.value}: {off}",
            remedy=f"{padding.remedy(output)}; or leave this format out of `optimize.formats`",
        )

    def _about_values(self, message: str, cause: str) -> StepError:
        real = "" if self.samples.real else "; if real inputs never hold such values, give some in `samples:`"
        return StepError("E423", message, cause=cause, remedy=f"leave this format out of `optimize.formats`{real}")

    def _differs_alone(self, case: EdgeCase, rows: Iterable[int]) -> bool:
        """Whether some of a batch's rows show a difference in the smallest batch too."""
        batch = self.signature.batch
        if batch is None or case.dim != batch:
            return False
        low = self.signature.dims[batch][0]
        for row in islice(rows, _ROWS_ALONE):
            few = {n: array.take(np.arange(row, row + low), axis=0, mode="wrap") for n, array in case.inputs.items()}
            expected = self.source(few)
            try:
                actual = self.converted(few)
            # As above: it fails without the other rows.
            except Exception:  # noqa: BLE001 - which is what is asked
                return True
            if any(_difference(expected[t.name], actual[t.name], self.noise[t.name]) for t in self.signature.outputs):
                return True
        return False


def _differing_rows(expected: Array, actual: Array) -> Iterator[int]:
    """The rows that differ most, or at all."""
    if expected.ndim == 0:
        return iter(())
    if expected.dtype.kind != "f":
        worst = (expected != actual).reshape(len(expected), -1).sum(axis=1)
    else:
        distance = np.abs(expected.astype(np.float64) - actual.astype(np.float64))
        worst = np.nan_to_num(distance, nan=np.inf).reshape(len(expected), -1).max(axis=1, initial=0.0)
    return (int(row) for row in np.argsort(-worst) if worst[row] > 0)


def _failed(message: str, case: EdgeCase, cause: str) -> StepError:
    if case.dim is None:
        return StepError("E423", message, cause=cause)
    return StepError(
        "E423",
        message,
        cause=cause,
        remedy="read sizes from the tensor's shape in the model's code, or narrow the range of the dimension",
        at=("model", "dims", case.dim),
    )


def _noise(usual: Array) -> float:
    """A few roundings of what an output usually holds."""
    if usual.dtype.kind != "f":
        return 0.0
    largest = np.abs(usual[np.isfinite(usual)]).max(initial=0)
    return _ROUNDINGS * float(np.finfo(np.float32).eps) * float(largest)


def _difference(expected: Array, actual: Array, noise: float) -> str | None:
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind != actual.dtype.kind:
        return f"{actual.dtype} instead of {expected.dtype}"
    if expected.size == 0:
        return None
    if expected.dtype.kind != "f":
        share = float(np.mean(expected != actual))
        if share <= _LOOSE:
            return None
        first = tuple(np.argwhere(expected != actual)[0])
        return f"{share:.1%} of the values differ, such as {actual[first]} instead of {expected[first]}"
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)):
        return "NaN or infinity on one side only"
    if not finite.any():
        return None
    scale = max(float(np.abs(wide[finite]).max()), 1e-6)
    error = float(np.abs(wide[finite] - other[finite]).max())
    if error <= max(_LOOSE * scale, noise):
        return None
    return f"values are off by {error:.3g} where the largest is {scale:.3g}"


_TOLERANCE = {"float16": 1e-2}
"""The tolerance between two results for the same row: this, plus this times the output's largest value."""
_FULL_TOLERANCE = 1e-5

_ROWS = 8
_ROWS_ALONE = 4
_ROWS_LAST = 2


def changing_output(answer: Answer, signature: Signature, samples: Samples) -> str | None:
    """The first output that changes when the call is repeated; None if there is none.

    Raises:
        StepError: as `answer`.
    """
    inputs = call_at(samples, signature, compared_sizes(samples, signature))
    once, twice = answer(inputs), answer(inputs)
    return next((name for name in once if not close(once[name], twice[name])), None)


@dataclass(frozen=True, slots=True)
class MixedRows:
    """A row that depends on the other rows of its batch.

    Attributes:
        output: the first output that shows it.
        padding: where it does so, if at padded positions only.
    """

    output: str
    padding: Padding | None

    def remedy(self, otherwise: str) -> str:
        """What to do: about the padding, or `otherwise`."""
        return otherwise if self.padding is None else self.padding.remedy(self.output)


def row_mixing_output(answer: Answer, signature: Signature, samples: Samples, notes: list[str]) -> MixedRows | None:
    """The first output with a row that depends on the other rows of its batch; None if there is none.

    Args:
        answer: calls the model.
        signature: as declared.
        samples: at least one row.
        notes: gets a sentence if a row differs because the model amplifies rounding.

    Raises:
        StepError: as `answer`.
    """
    dim = signature.batch
    if dim is None:
        return None
    moved: dict[str, None] = {}
    calls = list(rows_in_two_batches(with_second_row(samples, signature), signature, dim))
    for given, tried in ((answer, calls), (turned(answer), calls[:_ROWS_LAST])):
        check = RowCheck(_in_order(given, dim), signature, close)
        for few, many in tried:
            alone, together = given(few, dim), given(many, dim)
            pairs = [(few, alone.values()), (many, together.values())]
            if not all(holds_rows(array.shape, inputs) for inputs, outputs in pairs for array in outputs):
                return None  # such a model is not called with batches
            for name, array in alone.items():
                other = together[name]
                if array.shape[1:] != other.shape[1:]:
                    return None  # nor is one whose shapes depend on other rows
                if not close(array[:1], other[:1]):
                    if not check.only_rounding(few, many):
                        return MixedRows(name, padding_in_first_row(few, array, other))
                    moved.setdefault(name)
    notes.extend(map(amplifies_rounding, moved))
    return None


def padding_in_first_row(inputs: Mapping[str, Array], one: Array, other: Array) -> Padding | None:
    """The padding at which the first row differs in two batches that begin with it, if it differs nowhere else."""
    first = {name: array[:1] for name, array in inputs.items()}
    return padding_of_difference(first, one[:1], other[:1], close, batched=True)


def apart_by_first_dimension(signature: Signature) -> str:
    """What to do about rows that mix in a model that is right as it is."""
    return (
        f"compute along dimensions other than the first; or, if `{signature.batch}` counts no requests, such as the steps of a "
        "sequence, declare `model: {batch: none}`"
    )


def _in_order(answer: Answer, dim: str) -> Callable[[Mapping[str, Array]], list[Array]]:
    return lambda inputs: list(answer(inputs, dim).values())


def turned(answer: Answer) -> Answer:
    """The model with the rows of its inputs in the reverse order, and those of its outputs turned back.

    What is first is then last for the model: the first row of a sequence depends on no other one where it is read forwards.
    """

    def call(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        return turned_rows(answer(turned_rows(inputs), dim))

    return call


def holds_rows(shape: Sequence[int], inputs: Mapping[str, Array]) -> bool:
    """Whether an output of this shape has an entry for each row of the inputs."""
    return tuple(shape[:1]) == (len(next(iter(inputs.values()))),)


def amplifies_rounding(name: str) -> str:
    """The note on a model whose rows differ with the size of their batch, but not with other rows."""
    return (
        f"source: a row's `{name}` differs a little with the size of its batch, since the model amplifies rounding; "
        "other rows do not change it"
    )


def rows_in_two_batches(
    samples: Samples, signature: Signature, dim: str
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """The inputs of two calls that begin with the same row but have different rows after it, for each of the first rows.

    Args:
        samples: at least two rows.
        signature: as declared.
        dim: its batch dimension.
    """
    sizes = compared_sizes(samples, signature)
    low = signature.dims[dim][0]
    for first in range(min(_ROWS_ALONE, samples.rows)):
        # The smallest batch that begins with this row; if it has the same size as before, at least its other rows differ.
        few = call_at(samples, signature, {**sizes, dim: low}, first)
        if low == sizes[dim]:
            tensors = {tensor.name: tensor for tensor in signature.inputs}
            few = {name: np.concatenate([array[:1], zeros(array[1:], tensors[name])]) for name, array in few.items()}
        yield few, call_at(samples, signature, sizes, first)


def with_second_row(samples: Samples, signature: Signature) -> Samples:
    """The samples with another row beside them where there is but one, which cannot show that rows mix.

    It is random but for its integers: those are the row's own in another order, since the model may take no others.
    """
    if samples.rows > 1:
        return samples
    other = random_samples(signature, seed=1)
    sizes = sizes_of(samples, signature)
    company = call_at(other, signature, {**sizes, signature.batch or "": 1}, first=1)
    for name, array in samples.inputs.items():
        if array.dtype.kind in "iu":
            company[name] = array.reshape(-1)[::-1].reshape(array.shape)
    joined = {name: np.concatenate([array, company[name]]) for name, array in samples.inputs.items()}
    return type(samples)(joined, None, real=samples.real)


def compared_sizes(samples: Samples, signature: Signature) -> dict[str, int]:
    """The dimensions of the samples, and a few rows."""
    sizes = sizes_of(samples, signature)
    if signature.batch is not None:
        sizes[signature.batch] = signature.fitting(signature.batch, min(_ROWS, samples.rows))
    return sizes


def close(one: Array, other: Array) -> bool:
    """Whether two results of one model for the same row agree."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    allowed = _TOLERANCE.get(one.dtype.name, _FULL_TOLERANCE)
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    largest = float(np.abs(left[finite]).max(initial=0.0))
    return bool(np.allclose(left, right, rtol=0.0, atol=allowed * (1 + largest), equal_nan=True))
