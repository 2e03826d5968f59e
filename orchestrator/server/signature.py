"""The served model's tensors, and the check that a request's shapes are within the verified range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .datatypes import DATATYPES
from .errors import RequestError

__all__ = ["Allowed", "Signature", "Tensor"]


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an input may hold: a `range` of numbers, both ends included, or one of `values`.

    Attributes:
        enforce: whether requests with other values are refused.
    """

    range: tuple[int | float, int | float] | None
    values: tuple[bool | int | float | str, ...] | None
    enforce: bool

    def __str__(self) -> str:
        """As messages have it."""
        if self.range is not None:
            return f"from {self.range[0]} to {self.range[1]}"
        return f"one of {', '.join(map(repr, self.values or ()))}"

    def as_parameters(self) -> dict[str, Any]:
        """The parameters of the tensor in model metadata."""
        what = {"values": list(self.values or ())} if self.range is None else {"range": list(self.range)}
        return {**what, "enforced": self.enforce}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor.

    Attributes:
        dtype: numpy's name, or `string`.
        shape: numbers and names; None if unknown.
        allowed: what an input may hold; None if that is not known.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    allowed: Allowed | None = None

    @property
    def datatype(self) -> str:
        """The protocol's name of the element type, such as `FP32`."""
        return DATATYPES[self.dtype]

    @property
    def wire_shape(self) -> list[int]:
        """The shape in model metadata: -1 for every dimension that varies."""
        return [dim if isinstance(dim, int) else -1 for dim in self.shape or ()]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs.

    Attributes:
        dims: name → (smallest, largest) size, for every name in an input's shape.
        batch: the name of the batch dimension, the first of every input; None if there is none.
        multiples: name → the number that every size is a multiple of, where it is not 1.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    dims: Mapping[str, tuple[int, int]]
    batch: str | None
    multiples: Mapping[str, int] = field(default_factory=dict)

    @property
    def splits(self) -> bool:
        """Whether requests can be batched and their outputs split: all tensors begin with the batch dimension."""
        return self.batch is not None and all(
            tensor.shape is not None and tensor.shape[:1] == (self.batch,)
            for tensor in (*self.inputs.values(), *self.outputs.values())
        )

    @property
    def no_fixed_calls(self) -> str:
        """Why calls with the same number of rows can differ in shape or contain texts; empty if they cannot."""
        for tensor in (*self.inputs.values(), *self.outputs.values()):
            if tensor.dtype == "string":
                return f"{tensor.name!r} is text"
            if tensor.shape is None:
                return f"the shape of {tensor.name!r} is unknown"
            for dim in tensor.shape:
                if isinstance(dim, int) or dim == self.batch:
                    continue
                low, high = self.dims.get(dim, (0, 0))
                if low < high:
                    return f"dimension {dim!r} of {tensor.name!r} ranges from {low} to {high}"
                if dim not in self.dims:
                    return f"dimension {dim!r} of {tensor.name!r} has no range"
        return ""

    def shape_at(self, tensor: Tensor, rows: int) -> tuple[int, ...]:
        """A tensor's shape with a batch of `rows` and every other dimension at its minimum."""
        sizes = {name: low for name, (low, _) in self.dims.items()}
        if self.batch is not None:
            sizes[self.batch] = rows
        return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.shape or ())

    def check_shape(self, tensor: Tensor, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Refuse an input's shape that the signature does not allow.

        Args:
            tensor: the input.
            shape: what the request declares.
            sizes: the named dimensions seen so far in this request; this input's are added.

        Raises:
            RequestError: 400, with the wrong dimension and its allowed sizes.
        """
        expected = tensor.shape or ()
        if len(shape) != len(expected):
            raise RequestError(
                400,
                f"input {tensor.name!r} has {len(expected)} dimensions {_text(expected)}, not {len(shape)}",
            )
        for axis, (size, dim) in enumerate(zip(shape, expected, strict=True)):
            if isinstance(dim, int):
                if size != dim:
                    raise RequestError(400, f"input {tensor.name!r}: dimension {axis} must be {dim}, not {size}")
                continue
            low, high = self.dims[dim]
            if not low <= size <= high:
                raise RequestError(
                    400, f"input {tensor.name!r}: dimension {axis} ({dim}) must be from {low} to {high}, not {size}"
                )
            step = self.multiples.get(dim, 1)
            if size % step:
                raise RequestError(
                    400, f"input {tensor.name!r}: dimension {axis} ({dim}) must be a multiple of {step}, not {size}"
                )
            if sizes.setdefault(dim, size) != size:
                raise RequestError(
                    400, f"input {tensor.name!r}: dimension {axis} ({dim}) is {size}, but {sizes[dim]} in another input"
                )


def _text(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
