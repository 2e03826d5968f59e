"""Proposes names, types, shapes and ranges for a first spec, from what was read from the model file."""

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
"""A range with this maximum is unbounded in the model."""


@dataclass(frozen=True, slots=True)
class ProposedTensor:
    """An input or output.

    Attributes:
        name: a valid name for the spec.
        own: the model's own name, if it differs.
        dtype: empty if the file does not specify it.
        shape: None if the file does not specify it.
    """

    name: str
    own: str | None
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, slots=True)
class ProposedDim:
    """The range of a named dimension; `from_model` if the model file specifies it, otherwise it is assumed."""

    min: int
    max: int
    from_model: bool


@dataclass(frozen=True, slots=True)
class ProposedModel:
    """Inputs and outputs in the model's order; empty if the file does not describe them.

    Attributes:
        batch: the batch dimension; None if the sizes are fixed.
        notes: remarks for the user, one sentence each.
    """

    inputs: Sequence[ProposedTensor]
    outputs: Sequence[ProposedTensor]
    dims: Mapping[str, ProposedDim]
    batch: str | None
    notes: Sequence[str]

    def signature(self) -> Signature | None:
        """The signature for generating random inputs; None if something is unknown."""
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
        named: whether tensors of this source kind are identified by name; otherwise names are free, and the model's own are not kept.

    Raises:
        StepFailed: E128, an input or output has a type that mlo does not support.
    """
    _refuse_unsupported_types(found)
    batch = batch_of(found.inputs)
    dim_names = DimNames(found.inputs, batch)

    def proposed(own: FoundTensor, name: str, shape: tuple[Dim, ...] | None) -> ProposedTensor:
        return ProposedTensor(name, own.tensor if named and own.tensor != name else None, own.dtype, shape)

    inputs = [proposed(each, name, dim_names.input_shape(each, name)) for each, name in _with_names(found.inputs)]
    known = {dim for each in inputs for dim in each.shape or ()}
    outputs = [proposed(each, name, dim_names.output_shape(each, known)) for each, name in _with_names(found.outputs)]
    ranges = {dim_names.of(own): (low, high) for own, (low, high) in found.ranges.items()}
    dims = {
        dim: _range(ranges.get(dim), DEFAULT_BATCH if dim == batch else _DEFAULT_OTHER)
        for each in inputs
        for dim in each.shape or ()
        if isinstance(dim, str)
    }
    return ProposedModel(inputs, outputs, dims, batch, tuple(note.text for note in found.notes))


def _with_names(everything: Sequence[FoundTensor]) -> list[tuple[FoundTensor, str]]:
    taken: list[str] = []
    for each in everything:
        taken.append(spec_name(each.tensor, taken))
    return list(zip(everything, taken, strict=True))


def _range(given: Sequence[int] | None, otherwise: tuple[int, int]) -> ProposedDim:
    if given is None:
        return ProposedDim(*otherwise, from_model=False)
    low, high = max(1, given[0]), given[1]
    if high >= _UNBOUNDED:
        return ProposedDim(low, max(low, otherwise[1]), from_model=False)
    return ProposedDim(low, high, from_model=True)


def _refuse_unsupported_types(found: Inspection) -> None:
    for role, tensors in (("inputs", found.inputs), ("outputs", found.outputs)):
        for each in tensors:
            if each.dtype and each.dtype not in _DTYPES:
                raise StepFailed(
                    Diagnostic(
                        "E128",
                        f"the {role[:-1]} `{each.tensor}` has type {each.dtype}, which mlo does not support",
                        remedy=f"change the model to {'accept' if role == 'inputs' else 'return'} one of {', '.join(get_args(DtypeName))}",
                    )
                )
