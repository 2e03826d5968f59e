"""Proposes names, types, shapes and ranges for a first spec, from what was read from the model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from orchestrator.artifacts.inspection import FoundTensor, Inspection
from orchestrator.artifacts.probed import Probed, ProbedDim
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StepFailed
from orchestrator.plan.dim_names import DEFAULT_BATCH, UNNAMED_BATCH, DimNames, batch_of, dim_name
from orchestrator.plan.found import called_apart, output_names, spec_name
from orchestrator.spec.models import DtypeName
from orchestrator.spec.sample_arrays import LABELS, ArrayHeader
from orchestrator.spec.signature import Allowed, Dim, Signature, Tensor

__all__ = [
    "AS_IN_SAMPLES",
    "ProposedDim",
    "ProposedModel",
    "ProposedTensor",
    "proposed_model",
    "with_probed",
    "with_samples",
]

AS_IN_SAMPLES = "as in the samples"
"""The remark on an input whose shape the model file does not specify."""

_DTYPES = frozenset(get_args(DtypeName))
_PYTHON_NUMBERS = frozenset({"int", "float"})
"""Types of arguments in TorchScript that are no tensors."""

_BATCH = "batch"
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
        allowed: what it may hold; None if nothing is known.
        remark: why it may hold that, or what the user has to say, a phrase; otherwise empty.
    """

    name: str
    own: str | None
    dtype: str
    shape: tuple[Dim, ...] | None
    allowed: Allowed | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ProposedDim:
    """The range of a named dimension.

    Attributes:
        from_model: whether the model file specifies it; otherwise it is assumed or tried.
        multiple_of: the sizes are multiples of it.
        reason: why this range was found by calling the model, a phrase; empty if it was not called.
    """

    min: int
    max: int
    from_model: bool
    multiple_of: int = 1
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ProposedModel:
    """Inputs and outputs in the model's order; empty if the file does not describe them.

    Attributes:
        batch: the batch dimension; None if the sizes are fixed, or if none counts the rows of requests.
        why_batch: why the spec has to name it, or that there is none, a clause; otherwise empty.
        notes: remarks for the user, one sentence each.
        questions: what the user has to decide, one sentence each.
    """

    inputs: Sequence[ProposedTensor]
    outputs: Sequence[ProposedTensor]
    dims: Mapping[str, ProposedDim]
    batch: str | None
    notes: Sequence[str]
    questions: Sequence[str] = field(default=())
    why_batch: str = ""

    @property
    def inner_batch(self) -> str | None:
        """The batch dimension if it is not the first of every input."""
        first = all((each.shape or ())[:1] == (self.batch,) for each in self.inputs)
        return None if first else self.batch

    def signature(self) -> Signature | None:
        """The signature for calling the model and generating random inputs; None if something is unknown."""
        if not self.inputs or any(not each.dtype or each.shape is None for each in self.inputs):
            return None
        return Signature(
            inputs=tuple(Tensor(each.name, each.dtype, each.shape, each.allowed) for each in self.inputs),
            outputs=tuple(Tensor(each.name, each.dtype, each.shape) for each in self.outputs),
            dims={name: (dim.min, dim.max) for name, dim in self.dims.items()},
            batch=None if self.inner_batch is not None else self.batch,
            multiples={name: dim.multiple_of for name, dim in self.dims.items() if dim.multiple_of > 1},
        )


def proposed_model(found: Inspection, *, named: bool) -> ProposedModel:
    """The proposal for what the step `inspect` found.

    Args:
        found: its document.
        named: whether tensors of this source kind are identified by name; otherwise names are free, and the model's own are not kept.

    Raises:
        StepFailed: E128, an input or output has a type that mlo does not support.
    """
    found = _without_unserved(found) if named else found
    _refuse_unsupported_types(found)
    batch = batch_of(found.inputs)
    dim_names = DimNames(found.inputs, batch)

    def proposed(own: FoundTensor, name: str, shape: tuple[Dim, ...] | None) -> ProposedTensor:
        return ProposedTensor(name, own.tensor if named and own.tensor != name else None, own.dtype, shape)

    inputs = [proposed(each, name, dim_names.input_shape(each, name)) for each, name in _with_names(found.inputs)]
    known = {dim for each in inputs for dim in each.shape or ()}
    names = output_names([each.tensor for each in found.outputs], [each.name for each in inputs])
    outputs = [
        proposed(each, name, dim_names.output_shape(each, known))
        for each, name in zip(found.outputs, names, strict=True)
    ]
    ranges = {dim_names.of(own): (low, high) for own, (low, high) in found.ranges.items()}
    multiples = {dim_names.of(own): step for own, step in found.multiples.items()}
    dims = {
        dim: _range(ranges.get(dim), multiples.get(dim, 1), DEFAULT_BATCH if dim == batch else _DEFAULT_OTHER)
        for each in inputs
        for dim in each.shape or ()
        if isinstance(dim, str)
    }
    notes = [note.text for note in found.notes]
    notes += [
        called_apart(own.tensor, each.name)
        for own, each in zip(found.outputs, outputs, strict=True)
        if spec_name(own.tensor) in {given.name for given in inputs}
    ]
    return ProposedModel(inputs, outputs, dims, batch, tuple(notes))


def with_samples(model: ProposedModel, arrays: Mapping[str, ArrayHeader]) -> ProposedModel:
    """The proposal, with shapes and types of the samples' arrays for inputs of which the file does not specify them.

    Their first dimension is taken for the batch. Samples of float64, numpy's default, are no sign that the model takes that type.
    """
    given = {name: header for name, header in arrays.items() if name != LABELS and header.shape}

    def known(each: ProposedTensor) -> ProposedTensor:
        header = given.get(each.name)
        if header is None or each.shape is not None:
            return each
        dtype = "string" if header.kind in "US" else "float32" if header.dtype == "float64" else header.dtype
        stated = each.dtype or (dtype if dtype in _DTYPES else "")
        return replace(each, dtype=stated, shape=(_BATCH, *header.shape[1:]), remark=AS_IN_SAMPLES)

    unknown = model.inputs or [ProposedTensor(name, None, "", None) for name in given if spec_name(name) == name]
    inputs = [known(each) for each in unknown]
    if all(each.remark != AS_IN_SAMPLES for each in inputs):
        return model
    dims = {**model.dims, _BATCH: model.dims.get(_BATCH, ProposedDim(*DEFAULT_BATCH, from_model=False))}
    return replace(model, inputs=inputs, dims=dims, batch=model.batch or _BATCH)


def with_probed(model: ProposedModel, probed: Probed) -> ProposedModel:
    """The proposal, with what was found by calling the model."""
    same = {name: dim.same_as for name, dim in probed.dims.items() if dim.same_as is not None}
    renamed = _no_longer_batch(model, probed)

    def named(dim: Dim) -> Dim:
        dim = same.get(str(dim), dim)
        return renamed.get(str(dim), dim)

    def known(each: ProposedTensor) -> ProposedTensor:
        shape = None if each.shape is None else tuple(named(dim) for dim in each.shape)
        found = probed.inputs.get(each.name)
        if found is None:
            return replace(each, shape=shape)
        nothing = found.range is None and found.values is None
        return replace(
            each, shape=shape, allowed=None if nothing else Allowed(found.range, found.values), remark=found.reason
        )

    return replace(
        model,
        inputs=[known(each) for each in model.inputs],
        outputs=[
            replace(each, shape=None) if each.name in probed.misdeclared else known(each) for each in model.outputs
        ],
        dims={
            str(named(name)): _tried(dim, probed.dims[name]) if name in probed.dims else dim
            for name, dim in model.dims.items()
            if name not in same
        },
        notes=[
            *model.notes,
            *(_misdeclared(each, probed) for each in model.outputs if each.name in probed.misdeclared),
        ],
        batch=probed.batch,
        why_batch=probed.why_batch,
        questions=[
            *probed.questions,
            *(f"`{name}`: {found.reason}" for name, found in probed.inputs.items() if found.question),
        ],
    )


def _misdeclared(output: ProposedTensor, probed: Probed) -> str:
    stated = ", ".join(map(str, output.shape or ()))
    return (
        f"it states the shape [{stated}] for the output `{output.name}`, which is wrong: {probed.misdeclared[output.name]}; "
        "the shape is left out here, and found by running the model"
    )


def _no_longer_batch(model: ProposedModel, probed: Probed) -> dict[str, str]:
    """A new name for a first dimension without one of its own, if it turned out to be no batch."""
    if model.batch != UNNAMED_BATCH or probed.batch == model.batch:
        return {}
    return {UNNAMED_BATCH: dim_name(f"{model.inputs[0].name}_0")}


def _tried(proposed: ProposedDim, found: ProbedDim) -> ProposedDim:
    return replace(proposed, min=found.low, max=found.high, multiple_of=found.step, reason=found.reason)


def _with_names(everything: Sequence[FoundTensor]) -> list[tuple[FoundTensor, str]]:
    taken: list[str] = []
    for each in everything:
        taken.append(spec_name(each.tensor, taken))
    return list(zip(everything, taken, strict=True))


def _range(given: Sequence[int] | None, step: int, otherwise: tuple[int, int]) -> ProposedDim:
    if given is None:
        return ProposedDim(*otherwise, from_model=False)
    low, high = max(1, given[0]), given[1]
    if high >= _UNBOUNDED:
        usual = max(low, otherwise[1] // step * step)
        return ProposedDim(low, usual, from_model=False, multiple_of=step)
    return ProposedDim(low, high, from_model=True, multiple_of=step)


def _without_unserved(found: Inspection) -> Inspection:
    """The model without outputs that no response can carry, if others are left: `inspect` has a note on each."""
    served = tuple(each for each in found.outputs if not each.dtype or each.dtype in _DTYPES)
    return found.model_copy(update={"outputs": served}) if served else found


def _refuse_unsupported_types(found: Inspection) -> None:
    for role, tensors in (("inputs", found.inputs), ("outputs", found.outputs)):
        for each in tensors:
            if each.dtype and each.dtype not in _DTYPES:
                raise StepFailed(
                    Diagnostic(
                        "E128",
                        f"the {role[:-1]} `{each.tensor}` has type {each.dtype}, which mlo does not support",
                        remedy=_wrapped(each)
                        if role == "inputs" and each.dtype in _PYTHON_NUMBERS
                        else f"change the model to {'accept' if role == 'inputs' else 'return'} one of {', '.join(get_args(DtypeName))}",
                    )
                )


def _wrapped(own: FoundTensor) -> str:
    return (
        f"save a module around it whose `forward` takes a tensor for `{own.tensor}`, and calls it with "
        f"`{own.dtype}({own.tensor})`: requests carry tensors, and no numbers of Python"
    )
