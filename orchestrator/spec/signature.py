"""A model's signature: its input and output tensors, what they may hold, and the sizes of every named dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.spec.batch_dimension import declared_batch

if TYPE_CHECKING:
    from orchestrator.spec.models import DimRange, ModelDeployment, TensorIn

__all__ = [
    "Allowed",
    "Dim",
    "Signature",
    "Tensor",
    "declared_signature",
    "declared_tensor",
    "multiples_of",
]

Dim = int | str

_LISTED = 8
"""Values that a message lists; the spec has them all."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an input may hold.

    Attributes:
        range: the smallest and the largest number, both included; None if `values` are given.
        values: the only values; None if a range is given.
        enforce: whether servers refuse requests with others.
    """

    range: tuple[int | float, int | float] | None = None
    values: tuple[bool | int | float | str, ...] | None = None
    enforce: bool = False

    def __str__(self) -> str:
        """As messages have it: `from 0 to 255`, `one of 8000, 16000`, `one of 'a', 'b'`."""
        if self.range is not None:
            return f"from {self.range[0]} to {self.range[1]}"
        listed = ", ".join(map(repr, (self.values or ())[:_LISTED]))
        return f"one of {listed}" + (", ..." if len(self.values or ()) > _LISTED else "")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        dtype: as numpy spells it.
        shape: a number or a name for each dimension; None if unknown.
        allowed: what an input may hold; None if the spec does not say.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None
    allowed: Allowed | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the model's order.

    Attributes:
        dims: name → (smallest, largest) size.
        batch: the name of the batch dimension, which is the first dimension of every input; None if there is none, and requests
            are answered one by one.
        multiples: name → the number that every size is a multiple of, where it is not 1; both ends in `dims` are multiples too.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dims: Mapping[str, tuple[int, int]]
    batch: str | None
    multiples: Mapping[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without what has no value; `from_json` reads it back."""

        def tensor(t: Tensor) -> dict[str, Any]:
            document: dict[str, Any] = {
                "name": t.name,
                "dtype": t.dtype,
                "shape": None if t.shape is None else list(t.shape),
            }
            if t.allowed is not None:
                document["allowed"] = {
                    key: list(value) if isinstance(value, tuple) else value for key, value in asdict(t.allowed).items()
                }
            return document

        return {
            "inputs": [tensor(t) for t in self.inputs],
            "outputs": [tensor(t) for t in self.outputs],
            "dims": {name: list(bounds) for name, bounds in sorted(self.dims.items())},
            "batch": self.batch,
            **({"multiples": dict(sorted(self.multiples.items()))} if self.multiples else {}),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Signature:
        """The signature that `as_json` wrote."""

        def tensor(t: Mapping[str, Any]) -> Tensor:
            shape = None if t["shape"] is None else tuple(t["shape"])
            return Tensor(t["name"], t["dtype"], shape, None if t.get("allowed") is None else allowed(t["allowed"]))

        def allowed(a: Mapping[str, Any]) -> Allowed:
            found = None if a["range"] is None else (a["range"][0], a["range"][1])
            return Allowed(found, None if a["values"] is None else tuple(a["values"]), a["enforce"])

        return Signature(
            inputs=tuple(tensor(t) for t in document["inputs"]),
            outputs=tuple(tensor(t) for t in document["outputs"]),
            dims={name: (low, high) for name, (low, high) in document["dims"].items()},
            batch=document["batch"],
            multiples=document.get("multiples", {}),
        )

    def fitting(self, dim: str, size: int) -> int:
        """The largest size that `dim` can have up to `size`; its smallest if all are larger."""
        low, high = self.dims[dim]
        step = self.multiples.get(dim, 1)
        return max(low, min(high, size) // step * step)

    def covering(self, dim: str, size: int) -> int:
        """The smallest size that `dim` can have from `size` on; its largest if all are smaller."""
        low, high = self.dims[dim]
        step = self.multiples.get(dim, 1)
        return min(high, -(-max(low, size) // step) * step)

    def sizes(self, dim: str) -> range:
        """All sizes that `dim` can have."""
        low, high = self.dims[dim]
        return range(low, high + 1, self.multiples.get(dim, 1))

    def shape_at(self, tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape with every named dimension given its size from `sizes`.

        Raises:
            KeyError: `sizes` lacks a dimension.
            ValueError: the tensor's shape is unknown.
        """
        if tensor.shape is None:
            raise ValueError(f"the shape of {tensor.name} is unknown")
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape)


def declared_tensor(declared: TensorIn) -> Tensor:
    """An input as the spec declares it."""
    allowed = None
    if declared.range is not None or declared.values is not None:
        low_high = None if declared.range is None else (declared.range[0], declared.range[1])
        values = None if declared.values is None else tuple(declared.values)
        allowed = Allowed(low_high, values, declared.enforce)
    return Tensor(declared.name, declared.dtype, tuple(declared.shape), allowed)


def multiples_of(dims: Mapping[str, DimRange]) -> dict[str, int]:
    """The `multiples` of a signature."""
    return {name: dim.multiple_of for name, dim in dims.items() if dim.multiple_of > 1}


def declared_signature(spec: ModelDeployment) -> Signature:
    """The signature as declared in the spec; the dtype of outputs is empty until the model has been run.

    Dimensions that no shape uses are omitted.
    """
    model = spec.model
    shapes = [*(t.shape for t in model.inputs), *(t.shape or [] for t in model.outputs)]
    used = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    return Signature(
        inputs=tuple(declared_tensor(t) for t in model.inputs),
        outputs=tuple(Tensor(t.name, "", None if t.shape is None else tuple(t.shape)) for t in model.outputs),
        dims={name: dim.bounds for name, dim in model.dims.items() if name in used},
        batch=declared_batch(spec).name,
        multiples=multiples_of({name: dim for name, dim in model.dims.items() if name in used}),
    )
