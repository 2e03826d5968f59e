"""Values that the spec allows an input to hold: drawn at random, at their ends, nearest to zero, and looked for in samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.spec.signature import Allowed, Signature, Tensor

__all__ = ["drawn", "ends", "nearest", "others", "refuse_others", "zeros"]

Array = np.ndarray[Any, Any]

_STRING = "string"


def drawn(random: np.random.Generator, allowed: Allowed, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of allowed values, all equally often; it begins with both ends of the range, or with each of the values."""
    kind = None if dtype == _STRING else np.dtype(dtype)
    if allowed.values is not None:
        values = np.array(allowed.values, dtype=kind)
        array = values[random.integers(0, len(values), shape)]
        first = values
    else:
        assert allowed.range is not None, "the spec gives one of the two"
        low, high = allowed.range
        first = np.array([low, high], dtype=kind)
        if first.dtype.kind == "f":
            share = random.random(shape)
            # Not low + share * (high - low), which overflows in a range as wide as the type.
            array = (low * (1 - share) + high * share).astype(kind).clip(first[0], first[1])
        else:
            array = random.integers(first[0], first[1], shape, dtype=first.dtype.type, endpoint=True)
    array = np.asarray(array)
    array.reshape(-1)[: len(first)] = first[: array.size]
    return array


def ends(allowed: Allowed, dtype: str) -> tuple[Any, Any]:
    """The smallest and the largest allowed value; of texts the shortest and the longest."""
    if allowed.range is not None:
        return allowed.range
    values: list[Any] = list(allowed.values or ())
    key = len if dtype == _STRING else None
    return min(values, key=key), max(values, key=key)


def nearest(array: Array, tensor: Tensor) -> Array:
    """The numbers of `array`, each brought to the nearest that the input may hold."""
    allowed = tensor.allowed
    if allowed is None:
        return array
    if allowed.range is not None:
        low, high = np.array(allowed.range, array.dtype)
        return array.clip(low, high)
    if array.dtype.kind == "U":
        return np.where(
            np.isin(array, allowed.values or ()), array, min(allowed.values or ("",), key=lambda v: len(str(v)))
        )
    values = np.sort(np.array(allowed.values, array.dtype))
    wide = array.astype(np.float64)
    above = np.searchsorted(values, array).clip(1, len(values) - 1) if len(values) > 1 else np.zeros(array.shape, int)
    below = np.maximum(above - 1, 0)
    closer = np.abs(wide - values[below]) <= np.abs(values[above] - wide)
    return np.asarray(np.where(closer, values[below], values[above]), array.dtype)


def zeros(array: Array, tensor: Tensor) -> Array:
    """Zeros like `array`, or what the input may hold that is nearest to them; empty texts, or the shortest."""
    return nearest(np.zeros_like(array), tensor)


def others(array: Array, allowed: Allowed) -> Array:
    """Which elements the input may not hold, as booleans of the same shape; NaN is in no range."""
    if allowed.values is not None:
        kind = None if array.dtype.kind == "U" else array.dtype
        return ~np.isin(array, np.array(allowed.values, kind))
    low, high = np.array(allowed.range, array.dtype)
    return np.asarray(~((array >= low) & (array <= high)))


def refuse_others(inputs: Mapping[str, Array], signature: Signature) -> None:
    """Check that samples hold only what the spec allows.

    Args:
        inputs: by name, rows first.
        signature: as declared.

    Raises:
        StepError: E346, with the row, the input and the value.
    """
    for number, tensor in enumerate(signature.inputs):
        if tensor.allowed is None:
            continue
        wrong = np.argwhere(others(inputs[tensor.name], tensor.allowed))
        if not len(wrong):
            continue
        row, *place = map(int, wrong[0])
        value = inputs[tensor.name][tuple(wrong[0])].item()
        rows = len(set(wrong[:, 0].tolist()))
        key = "range" if tensor.allowed.range is not None else "values"
        where = f" at {place}" if place else ""
        raise StepError(
            "E346",
            f"the samples hold values of `{tensor.name}` that the spec does not allow",
            cause=f"row {row} holds {value!r}{where}, but `{tensor.name}` is {tensor.allowed}"
            + (f"; so do {rows - 1} more rows" if rows > 1 else ""),
            remedy=f"correct the samples, or `{key}` of `{tensor.name}` in `inputs:`",
            at=("model", "inputs", number, key),
        )
