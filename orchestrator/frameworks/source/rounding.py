"""Tells the chaos of a model's arithmetic from rows that mix.

Kernels add in another order for another number of rows, which changes the last digit of a sum. A model of many layers may
amplify that to per cents, and its rows still depend on nothing but themselves. Three questions tell the two apart:

1. Does a row change with its company, in a batch of the same size? Kernels choose their order by sizes, not by values. So this
   is mixing, however small: batch statistics, a range of quantization that the rows share, attention across the batch.
2. Is the row the same in double precision? Then it was the arithmetic.
3. Do a few roundings of the inputs move the row as far as another size of its batch does? Then it was the arithmetic too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.allowed import nearest, zeros
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature

__all__ = ["Call", "RowCheck", "turned_rows"]

Outputs = list["Array"]
Call = Callable[[Mapping[str, "Array"]], Outputs]
Close = Callable[["Array", "Array"], bool]

_CLEARLY_MORE = 10.0
"""A row that moves with its batch this many times as far as with a few roundings of its inputs depends on the batch."""

_ROUNDINGS = 64
"""By how many roundings inputs are moved: as far as a sum of a few thousand terms is off. A single one may vanish in such a sum."""

_UNPERTURBED = 0.02
"""How far a row may move with the size of its batch, as a share of the output, where neither an input can be perturbed (ids,
texts) nor the model run in double precision."""

_PERTURBATIONS = 4


@dataclass(frozen=True, slots=True)
class RowCheck:
    """How a row is looked at that is not the same in two batches.

    Attributes:
        call: the model: inputs by name → its outputs in order.
        signature: the inputs, with what they may hold.
        close: whether two results for the same row agree.
        precise: the same model in double precision; None if the framework has no such thing. It may raise a StepError.
    """

    call: Call
    signature: Signature
    close: Close
    precise: Call | None = None

    def only_rounding(self, few: Mapping[str, Array], many: Mapping[str, Array], *, last: bool = False) -> bool:
        """Whether the arithmetic explains why one row's outputs differ in the two batches.

        Args:
            few: the inputs of a call.
            many: those of another one that begins with the same row.
            last: both end with that row instead.
        """
        if last:
            return self._turned().only_rounding(turned_rows(few), turned_rows(many))
        alone, together = _first_rows(self.call(few)), _first_rows(self.call(many))
        if _size(few) == _size(many) or not self._alone_counts(many, together):
            return False
        equal = None if self.precise is None else self._precisely_equal(self.precise, few, many)
        if equal:
            return True
        limits = self._limits(few, alone, 0.0 if equal is False else _UNPERTURBED)
        return all(
            _distance(*pair) <= limit
            for *pair, limit in zip(alone, together, limits, strict=True)
            if _comparable(*pair)
        )

    def _turned(self) -> RowCheck:
        precise = None if self.precise is None else _turned_call(self.precise)
        return replace(self, call=_turned_call(self.call), precise=precise)

    def _alone_counts(self, inputs: Mapping[str, Array], expected: Outputs) -> bool:
        """Whether the first row's outputs stay as they are when other rows stand beside it."""
        tensors = {tensor.name: tensor for tensor in self.signature.inputs}
        copies = {name: np.repeat(array[:1], len(array), axis=0) for name, array in inputs.items()}
        nothing = {name: np.concatenate([a[:1], zeros(a[1:], tensors[name])]) for name, a in inputs.items()}
        for company in (copies, nothing):
            try:
                found = _first_rows(self.call(company))
            except StepError:  # zeros may be nothing that the model takes
                if company is copies:
                    raise
                continue
            if not self._agree(expected, found):
                return False
        return True

    def _precisely_equal(self, precise: Call, few: Mapping[str, Array], many: Mapping[str, Array]) -> bool | None:
        """Whether the rows agree in double precision; None if the model does not run so."""
        try:
            alone, together = _first_rows(precise(few)), _first_rows(precise(many))
        # Code that names float32, for instance, does not run in double precision; or there is no room for such a copy.
        except (StepError, MemoryError):
            return None
        return self._agree(alone, together)

    def _agree(self, ones: Outputs, others: Outputs) -> bool:
        return all(self.close(*pair) for pair in zip(ones, others, strict=True) if _comparable(*pair))

    def _limits(self, inputs: Mapping[str, Array], expected: Outputs, unperturbed: float) -> list[float]:
        """For each output how far rounding moves the first row, with a margin; the share `unperturbed` if no input is a float."""
        floats = [tensor for tensor in self.signature.inputs if inputs[tensor.name].dtype.kind == "f"]
        if not floats:
            return [unperturbed * _scale(array) for array in expected]
        random = np.random.default_rng(0)
        moved = [0.0] * len(expected)
        for _ in range(_PERTURBATIONS):
            changed = {tensor.name: nearest(_rounded(inputs[tensor.name], random), tensor) for tensor in floats}
            found = _first_rows(self.call({**inputs, **changed}))
            moved = [
                max(far, _distance(*pair)) if _comparable(*pair) else far
                for far, *pair in zip(moved, expected, found, strict=True)
            ]
        return [_CLEARLY_MORE * far for far in moved]


def turned_rows(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs or outputs with their rows in the reverse order."""
    return {name: _turned(array) for name, array in arrays.items()}


def _turned(array: Array) -> Array:
    return np.ascontiguousarray(array[::-1]) if array.ndim else array


def _turned_call(call: Call) -> Call:
    return lambda inputs: [_turned(array) for array in call(turned_rows(inputs))]


def _rounded(array: Array, random: np.random.Generator) -> Array:
    """Each number moved up or down by a few roundings; a zero by those of the largest number."""
    finite = np.isfinite(array)
    largest = np.abs(array[finite]).max(initial=0)
    size = np.abs(np.where(array == 0, largest, array))
    steps = np.where(random.random(array.shape) < 0.5, -_ROUNDINGS, _ROUNDINGS).astype(array.dtype)
    with np.errstate(over="ignore"):
        moved = array + steps * np.spacing(np.where(finite, size, 0))
    return np.asarray(np.where(np.isfinite(moved), moved, array), array.dtype)


def _size(inputs: Mapping[str, Array]) -> int:
    return len(next(iter(inputs.values())))


def _first_rows(outputs: Outputs) -> list[Array]:
    return [array[:1] for array in outputs if array.ndim]


def _comparable(one: Array, other: Array) -> bool:
    """Whether both have the same shape; an output that does not is refused elsewhere, by its name."""
    return bool(one.shape == other.shape)


def _scale(array: Array) -> float:
    """The largest magnitude of an output; 1 for one whose elements are equal or not."""
    if array.dtype.kind != "f":
        return 1.0
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max()) if finite.size else 0.0


def _distance(one: Array, other: Array) -> float:
    """The largest difference; of integers and texts the share that differs."""
    if one.size == 0:
        return 0.0
    if one.dtype.kind != "f":
        return float(np.mean(one != other))
    left, right = one.astype(np.float64), other.astype(np.float64)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore"):
        far = np.where(same, 0.0, np.abs(left - right))
    return float(np.nan_to_num(far, nan=np.inf, posinf=np.inf).max())
