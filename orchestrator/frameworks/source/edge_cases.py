"""The edge cases of a signature, and what lies between: zeros, extreme values, smallest, largest and inner sizes."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.source.allowed import ends, zeros
from orchestrator.frameworks.source.samples import FLOAT_RANGE, element_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["MAX_CASE_BYTES", "EdgeCase", "call_at", "edge_cases", "inner_sizes", "largest_size", "sizes_of"]

MAX_CASE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class EdgeCase:
    """One call.

    Attributes:
        dim: the dimension whose size is tested; None if values are tested.
        note: what the user should know, for instance that a size was capped.
        inner: whether the size lies between the ends of the range. The model may refuse it, since a range says little about what
            lies within it.
    """

    name: str
    inputs: Mapping[str, Array]
    dim: str | None = None
    note: str = ""
    inner: bool = False


def sizes_of(samples: Samples, signature: Signature) -> dict[str, int]:
    """The size of each named dimension in the samples; the batch dimension has its minimum."""
    sizes = {name: low for name, (low, _) in signature.dims.items()}
    for tensor in signature.inputs:
        array = samples.inputs[tensor.name]
        inner = (tensor.shape or ())[0 if signature.batch is None else 1 :]
        sizes.update({dim: size for dim, size in zip(inner, array.shape[1:], strict=True) if isinstance(dim, str)})
    return sizes


def call_at(samples: Samples, signature: Signature, sizes: Mapping[str, int], first: int = 0) -> dict[str, Array]:
    """The inputs of one call at these sizes, filled with the samples' own values, repeated or cut as needed.

    So the values stay plausible: token ids stay ids, masks stay masks. The call starts with the row `first` of the samples.
    """
    call: dict[str, Array] = {}
    for tensor in signature.inputs:
        array = samples.inputs[tensor.name]
        array = array[first] if signature.batch is None else np.roll(array, -first, axis=0)
        for axis, size in enumerate(signature.shape_at(tensor, sizes)):
            if array.shape[axis] != size:
                array = array.take(np.arange(size) % array.shape[axis], axis=axis)
        call[tensor.name] = np.asarray(array, order="C")
    return call


def largest_size(signature: Signature, sizes: Mapping[str, int], dim: str) -> int:
    """The largest size of `dim` with which the inputs of a call stay below 64 MiB, with the other sizes as given.

    It is at least the dimension's minimum.
    """
    sizes_of_dim = signature.sizes(dim)

    def call_bytes(size: int) -> int:
        at = {**sizes, dim: size}
        return sum(
            int(np.prod(signature.shape_at(tensor, at), dtype=np.int64)) * element_bytes(tensor.dtype)
            for tensor in signature.inputs
        )

    return sizes_of_dim[max(0, bisect_right(sizes_of_dim, MAX_CASE_BYTES, key=call_bytes) - 1)]


def inner_sizes(low: int, high: int, step: int = 1) -> tuple[int, ...]:
    """A few sizes between `low` and `high` that find a branch on a size, ascending; all are multiples of `step`, as the two are.

    Code branches on whether a size is odd, or a multiple of a tile, a window or a number of heads. So they are chosen that,
    together with `high`, as many numbers from 2 to 32 as possible divide one size and not another; powers of two count
    most. Together they are at most 1.5 times as large as `high`, so that they cost about as much as the call at that size.
    """
    wanted = {(number, divides) for number in _DIVISORS for divides in (True, False)} - _divided(high)
    chosen: list[int] = []
    left = high + high // 2
    while len(chosen) < _MOST_INNER_SIZES:
        sizes = [
            size
            for size in range(low + step, min(high, low + step * _SIZES_LOOKED_AT, left + 1), step)
            if size not in chosen
        ]
        best = max(sizes, key=lambda size: sum(_weight(each) for each in wanted & _divided(size)), default=None)
        if best is None or not wanted & _divided(best):
            break
        chosen.append(best)
        wanted -= _divided(best)
        left -= best
    return tuple(sorted(chosen))


_DIVISORS = range(2, 33)
_MOST_INNER_SIZES = 4
_SIZES_LOOKED_AT = 1024


def _divided(size: int) -> set[tuple[int, bool]]:
    return {(number, size % number == 0) for number in _DIVISORS}


def _weight(divisor: tuple[int, bool]) -> int:
    number, _ = divisor
    return 4 if number & (number - 1) == 0 else 1


def edge_cases(samples: Samples, signature: Signature) -> list[EdgeCase]:
    """Zeros, the samples' extreme values, and the smallest, the largest and some inner sizes of every dimension, in a fixed order.

    For texts, zero is the empty text, and the extreme values are the longest and the shortest text of the samples.
    """
    sizes = sizes_of(samples, signature)
    used = [dim for dim in sizes if any(dim in (tensor.shape or ()) for tensor in signature.inputs)]
    smallest = call_at(samples, signature, sizes)
    suffix = "" if signature.batch is None else ", smallest batch"
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    nothing = {name: zeros(array, tensors[name]) for name, array in smallest.items()}
    cases = [EdgeCase(f"{_zeros_named(nothing)}{suffix}", nothing)]
    for name, largest_value in (("largest", True), ("smallest", False)):
        extremes = {
            key: _filled(array, _extreme(samples, tensors[key], largest=largest_value))
            for key, array in smallest.items()
        }
        cases.append(EdgeCase(f"{name} values{suffix}", extremes))
    for dim in used:
        low, high = signature.dims[dim]
        label = "batch" if dim == signature.batch else dim
        name = f"{label} of {low}"
        cases.append(EdgeCase(name, call_at(samples, signature, {**sizes, dim: low}), dim))
        largest = largest_size(signature, sizes, dim)
        if largest > low:
            note = (
                f"`{dim}` goes up to {high}, but was tried up to {largest} only, which fills {MAX_CASE_BYTES >> 20} MiB"
                if largest < high
                else ""
            )
            cases.append(
                EdgeCase(f"{label} of {largest}", call_at(samples, signature, {**sizes, dim: largest}), dim, note)
            )
        cases += (
            EdgeCase(f"{label} of {size}", call_at(samples, signature, {**sizes, dim: size}), dim, inner=True)
            for size in inner_sizes(low, largest, signature.multiples.get(dim, 1))
        )
    return cases


def _zeros_named(inputs: Mapping[str, Array]) -> str:
    """The name of the case: a spec may not allow an input to hold zeros."""
    all_zero = all(np.array_equal(array, np.zeros_like(array)) for array in inputs.values())
    return "zeros" if all_zero else "zeros, or what is nearest to them"


def _filled(array: Array, value: Any) -> Array:
    """An array of the same shape that holds only `value`, which may be a longer text than those in `array`."""
    return np.full(array.shape, value, None if array.dtype.kind == "U" else array.dtype)


def _extreme(samples: Samples, tensor: Tensor, *, largest: bool) -> Any:
    array = samples.inputs[tensor.name]
    if tensor.allowed is not None:
        return ends(tensor.allowed, tensor.dtype)[1 if largest else 0]
    if not samples.real and array.dtype.kind == "f":
        return FLOAT_RANGE if largest else -FLOAT_RANGE
    if array.size == 0:
        return array.dtype.type()
    if array.dtype.kind == "U":
        lengths = np.strings.str_len(array)
        return array.flat[lengths.argmax() if largest else lengths.argmin()]
    return array.max() if largest else array.min()
