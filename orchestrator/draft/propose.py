"""What a first spec says of a model: names, types, shapes and ranges, out of what was read from the model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StepFailed
from orchestrator.plan.found import DEFAULT_BATCH, batch_name, dim_name, spec_name
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


def proposed_model(found: Mapping[str, Any], *, named: bool) -> ProposedModel:
    """The proposal for what the step `inspect` found.

    Args:
        found: its `found.json`.
        named: whether the source kind knows tensors by name; otherwise names are free, and the model's own is not kept.

    Raises:
        StepFailed: E128, an input or output has a type that mlo does not serve.
    """
    _refuse_other_types(found)
    firsts = {(each["shape"] or [0])[0] for each in found["inputs"]}
    batched = bool(firsts) and all(first is None or isinstance(first, str) for first in firsts)
    batch = batch_name(firsts) if batched else None
    inputs = [_input(each, name, batch, named=named) for each, name in _with_names(found["inputs"])]
    known = {dim for each in inputs for dim in each.shape or () if isinstance(dim, str)}
    outputs = [_output(each, name, batch, known, named=named) for each, name in _with_names(found["outputs"])]
    said = {dim_name(own): (low, high) for own, (low, high) in found["ranges"].items()}
    dims = {
        dim: _range(said.get(dim), DEFAULT_BATCH if dim == batch else _DEFAULT_OTHER)
        for each in inputs
        for dim in each.shape or ()
        if isinstance(dim, str)
    }
    return ProposedModel(inputs, outputs, dims, batch, tuple(found["notes"]))


def _with_names(everything: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    taken: list[str] = []
    for each in everything:
        taken.append(spec_name(each["tensor"], taken))
    return list(zip(everything, taken, strict=True))


def _input(own: Mapping[str, Any], name: str, batch: str | None, *, named: bool) -> ProposedTensor:
    shape = _shape(own, name, batch)
    if shape and batch is not None:
        shape = (batch, *shape[1:])  # whatever each of the inputs calls it
    return ProposedTensor(name, _own(own, name, named=named), own["dtype"], shape)


def _output(own: Mapping[str, Any], name: str, batch: str | None, known: set[str], *, named: bool) -> ProposedTensor:
    """Without its shape where that has a dimension which no input has: it is found by running the model."""
    shape = _shape(own, name, batch)
    whole = shape is not None and all(isinstance(dim, int) or dim in known for dim in shape)
    return ProposedTensor(name, _own(own, name, named=named), own["dtype"], shape if whole else None)


def _own(own: Mapping[str, Any], name: str, *, named: bool) -> str | None:
    return own["tensor"] if named and own["tensor"] != name else None


def _shape(own: Mapping[str, Any], name: str, batch: str | None) -> tuple[Dim, ...] | None:
    if own["shape"] is None:
        return None
    shape: list[Dim] = []
    for axis, size in enumerate(own["shape"]):
        if size is None:
            shape.append(batch if axis == 0 and batch is not None else dim_name(f"{name}_{axis}"))
        else:
            shape.append(dim_name(size) if isinstance(size, str) else size)
    return tuple(shape)


def _range(said: Sequence[int] | None, otherwise: tuple[int, int]) -> ProposedDim:
    if said is None:
        return ProposedDim(*otherwise, said=False)
    low, high = max(1, said[0]), said[1]
    if high >= _UNBOUNDED:
        return ProposedDim(low, max(low, otherwise[1]), said=False)
    return ProposedDim(low, high, said=True)


def _refuse_other_types(found: Mapping[str, Any]) -> None:
    for role in ("inputs", "outputs"):
        for each in found[role]:
            if each["dtype"] and each["dtype"] not in _DTYPES:
                raise StepFailed(
                    Diagnostic(
                        "E128",
                        f"the {role[:-1]} `{each['tensor']}` is {each['dtype']}, which mlo does not serve",
                        remedy=f"let the model {'take' if role == 'inputs' else 'return'} one of {', '.join(get_args(DtypeName))}",
                    )
                )
