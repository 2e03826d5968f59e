"""Refuses requests with values that the spec does not allow, where it asks for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .datatypes import Array, numpy_dtype
from .errors import RequestError
from .signature import Allowed, Signature, Tensor

__all__ = ["AllowedValues", "filler"]


class AllowedValues:
    """The checks of one model. Where `enforced` is False there are none, and `check` need not be called."""

    def __init__(self, signature: Signature) -> None:
        """Prepare the checks of the inputs whose `enforce` is set."""
        self._tensors = [t for t in signature.inputs.values() if t.allowed is not None and t.allowed.enforce]
        self._values = {tensor.name: _typed(tensor) for tensor in self._tensors}
        self.enforced = bool(self._tensors)

    def check(self, inputs: Mapping[str, Array]) -> None:
        """Check the inputs of a request.

        Raises:
            RequestError: 400, with the input, the value and what is allowed.
        """
        for tensor in self._tensors:
            array, typed = inputs[tensor.name], self._values[tensor.name]
            if array.size == 0:
                continue
            if tensor.allowed is not None and tensor.allowed.range is not None:
                # NaN makes both ends NaN, which is in no range.
                if array.min() >= typed[0] and array.max() <= typed[1]:
                    continue
                wrong = ~((array >= typed[0]) & (array <= typed[1]))
            else:
                wrong = ~np.isin(array, typed)
                if not wrong.any():
                    continue
            raise _refused(tensor, array, wrong)


def filler(tensor: Tensor) -> Any:
    """What the input is filled with in a warm-up: zero or the empty text, or the nearest number or the first text allowed."""
    zero: Any = "" if tensor.dtype == "string" else 0
    allowed = tensor.allowed
    if allowed is None:
        return zero
    if allowed.range is not None:
        return min(max(zero, allowed.range[0]), allowed.range[1])
    values = allowed.values or (zero,)
    return values[0] if tensor.dtype == "string" else min(values, key=lambda value: abs(float(value)))


def _typed(tensor: Tensor) -> Array:
    """Both ends of the range, or the values, rounded to the tensor's type as a request's numbers are."""
    allowed = tensor.allowed
    assert allowed is not None, "only such tensors are checked"
    listed = allowed.range if allowed.range is not None else allowed.values
    return np.array(listed, numpy_dtype(tensor.dtype))


def _refused(tensor: Tensor, array: Array, wrong: Array) -> RequestError:
    place = tuple(int(index) for index in np.argwhere(wrong)[0])
    value = array[place]
    shown = repr(value if isinstance(value, str) else value.item())
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    where = f" at {list(place)}" if place else ""
    allowed: Allowed | None = tensor.allowed
    return RequestError(400, f"input {tensor.name!r}: {shown}{where} is not allowed; every value must be {allowed}")
