"""What a first spec says of a model: names, types, shapes and ranges, out of what was read from the model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from orchestrator.artifacts.inspection import FoundTensor, Inspection
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StepFailed
from orchestrator.plan.dim_names import DEFAULT_BATCH, DimNames, batch_of
from orchestrator.plan.found import spec_name
from orchestrator.spec.models import DtypeName
from orchestrator.spec.signature import Dim, Signature, Tensor

__all__ = ["ProposedDim", "ProposedModel", "ProposedTensor", "proposed_model"]

_DTYPES = frozenset(get_args(DtypeName))
_DEFAULT_OTHER = (1, 128)
_UNBOUNDED = 2**31 - 1
"""A range that ends here has no end that the model knows."""


@dataclass(frozen=True, slots=True)
class ProposedTensor:
    """An input or output.

    Attributes:
        name: one that a spec can hold.
        own: what the model calls it, where that is another name.
        dtype: empty where the file does not say it.
        shape: None where the file does not say it.
    """

    name: str
    own: str | None
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class ProposedDim:
    """The range of a named dimension; `said` if the model's file says it, else it is assumed."""

    min: int
    max: int
    said: bool


@dataclass(frozen=True, slots=True)
class ProposedModel:
    """Inputs and outputs in the model's order; none of either where the file does not say them.

    Attributes:
        batch: the dimension that counts rows; None where the sizes are fixed.
        notes: what a person should know, a sentence each.
    """

    inputs: Sequence[ProposedTensor]
    outputs: Sequence[ProposedTensor]
    dims: Mapping[str, ProposedDim]
    batch: str | None
    notes: Sequence[str]

    def signature(self) -> Signature | None:
        """As random inputs are made from; None where something is not known."""
        if not self.inputs or any(not each.dtype or each.shape is None for each in self.inputs):
            return None
        return Signature(
            inputs=tuple(Tensor(each.name, each.dtype, each.shape) for each in self.inputs),
            outputs=(),
            dims={name: (dim.min, dim.max) for name, dim in self.dims.items()},
            batch=self.batch,
        )


def proposed_model(found: Inspection, *, named: bool) -> ProposedModel:
    """The proposal for what the step `inspect` found.

    Args:
        found: its document.
        named: whether the source kind knows tensors by name; otherwise names are free, and the model's own is not kept.

    Raises:
        StepFailed: E128, an input or output has a type that mlo does not serve.
    """
    _refuse_other_types(found)
    batch = batch_of(found.inputs)
    called = DimNames(found.inputs, batch)

    def proposed(own: FoundTensor, name: str, shape: tuple[Dim, ...] | None) -> ProposedTensor:
        return ProposedTensor(name, own.tensor if named and own.tensor != name else None, own.dtype, shape)

    inputs = [proposed(each, name, called.input_shape(each, name)) for each, name in _with_names(found.inputs)]
    known = {dim for each in inputs for dim in each.shape or ()}
    outputs = [proposed(each, name, called.output_shape(each, known)) for each, name in _with_names(found.outputs)]
    said = {called.of(own): (low, high) for own, (low, high) in found.ranges.items()}
    dims = {
        dim: _range(said.get(dim), DEFAULT_BATCH if dim == batch else _DEFAULT_OTHER)
        for each in inputs
        for dim in each.shape or ()
        if isinstance(dim, str)
    }
    return ProposedModel(inputs, outputs, dims, batch, tuple(found.notes))


def _with_names(everything: Sequence[FoundTensor]) -> list[tuple[FoundTensor, str]]:
    taken: list[str] = []
    for each in everything:
        taken.append(spec_name(each.tensor, taken))
    return list(zip(everything, taken, strict=True))


def _range(said: Sequence[int] | None, otherwise: tuple[int, int]) -> ProposedDim:
    if said is None:
        return ProposedDim(*otherwise, said=False)
    low, high = max(1, said[0]), said[1]
    if high >= _UNBOUNDED:
        return ProposedDim(low, max(low, otherwise[1]), said=False)
    return ProposedDim(low, high, said=True)


def _refuse_other_types(found: Inspection) -> None:
    for role, tensors in (("inputs", found.inputs), ("outputs", found.outputs)):
        for each in tensors:
            if each.dtype and each.dtype not in _DTYPES:
                raise StepFailed(
                    Diagnostic(
                        "E128",
                        f"the {role[:-1]} `{each.tensor}` is {each.dtype}, which mlo does not serve",
                        remedy=f"let the model {'take' if role == 'inputs' else 'return'} one of {', '.join(get_args(DtypeName))}",
                    )
                )
