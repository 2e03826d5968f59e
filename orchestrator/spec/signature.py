"""A model's signature: its input and output tensors, with the range of every named dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.spec.models import ModelDeployment

__all__ = ["Signature", "Tensor", "batch_dimension", "declared_signature"]

Dim = int | str


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: `dtype` as numpy spells it; `shape` with a number or a name for each dimension, None if unknown."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in the model's order.

    Attributes:
        dims: name → (smallest, largest) size.
        batch: the name of the batch dimension, which is the first dimension of every input; None if there is none.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    dims: Mapping[str, tuple[int, int]]
    batch: str | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""

        def tensor(t: Tensor) -> dict[str, Any]:
            return {"name": t.name, "dtype": t.dtype, "shape": None if t.shape is None else list(t.shape)}

        return {
            "inputs": [tensor(t) for t in self.inputs],
            "outputs": [tensor(t) for t in self.outputs],
            "dims": {name: list(bounds) for name, bounds in sorted(self.dims.items())},
            "batch": self.batch,
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Signature:
        """The signature that `as_json` wrote."""

        def tensor(t: Mapping[str, Any]) -> Tensor:
            return Tensor(t["name"], t["dtype"], None if t["shape"] is None else tuple(t["shape"]))

        return Signature(
            inputs=tuple(tensor(t) for t in document["inputs"]),
            outputs=tuple(tensor(t) for t in document["outputs"]),
            dims={name: (low, high) for name, (low, high) in document["dims"].items()},
            batch=document["batch"],
        )

    def shape_at(self, tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape with every named dimension given its size from `sizes`.

        Raises:
            KeyError: `sizes` lacks a dimension.
            ValueError: the tensor's shape is unknown.
        """
        if tensor.shape is None:
            raise ValueError(f"the shape of {tensor.name} is unknown")
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape)


def batch_dimension(spec: ModelDeployment) -> str | None:
    """The named first dimension that all inputs share; None if there is none."""
    firsts = {tensor.shape[0] if tensor.shape else None for tensor in spec.model.inputs}
    first = firsts.pop() if len(firsts) == 1 else None
    return first if isinstance(first, str) else None


def declared_signature(spec: ModelDeployment) -> Signature:
    """The signature as declared in the spec; the dtype of outputs is empty until the model has been run.

    Dimensions that no shape uses are omitted.
    """
    model = spec.model
    shapes = [*(t.shape for t in model.inputs), *(t.shape or [] for t in model.outputs)]
    used = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    return Signature(
        inputs=tuple(Tensor(t.name, t.dtype, tuple(t.shape)) for t in model.inputs),
        outputs=tuple(Tensor(t.name, "", None if t.shape is None else tuple(t.shape)) for t in model.outputs),
        dims={name: (dim.min, dim.max) for name, dim in model.dims.items() if name in used},
        batch=batch_dimension(spec),
    )
