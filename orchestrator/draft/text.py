"""The text of a first spec, with comments on what a person should decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.draft.layout import Line, aligned, scalar
from orchestrator.draft.propose import ProposedModel, ProposedTensor
from orchestrator.spec.signature import Dim
from orchestrator.spec.source_models import SAY_NOTHING, SourceKind

__all__ = ["SpecDraft", "StateDict", "spec_text"]

_GIB = 2**30
_EXAMPLE = "such as [batch, 3, 224, 224]"


@dataclass(frozen=True, slots=True)
class StateDict:
    """What a file of weights alone says.

    Attributes:
        weights_key: what leads to the state dict inside it.
        tensors: name and shape of some matrices, for a person who looks for the model's sizes.
        more: how many matrices there are beside those.
        classes: `module:Class` of what may build the architecture, beside the spec.
    """

    weights_key: str | None
    tensors: Sequence[tuple[str, Sequence[int]]]
    more: int
    classes: Sequence[str]


@dataclass(frozen=True, slots=True)
class SpecDraft:
    """Everything that is written.

    Attributes:
        weights: the model's path, relative to the spec.
        size: bytes of the model's files.
        samples: an .npz file, relative to the spec; None if there is none.
        random: whether those samples are random.
        state: of a file of weights alone.
        settings: further keys of the source.
    """

    name: str
    kind: SourceKind
    weights: str
    size: int
    model: ProposedModel
    samples: str | None = None
    random: bool = False
    state: StateDict | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def spec_text(draft: SpecDraft) -> str:
    """The spec as YAML."""
    head = "# A first spec, written by `mlo init`. The comments say what is to be decided.\n"
    return "\n".join([head + _metadata(draft), aligned(_model(draft)), aligned(_service(draft))])


def _metadata(draft: SpecDraft) -> str:
    return aligned(
        [
            Line("apiVersion: mlo/v1"),
            Line("kind: ModelDeployment"),
            Line("metadata:"),
            Line(f"  name: {draft.name}", "names the release, its images and its URLs"),
        ]
    )


def _model(draft: SpecDraft) -> list[Line]:
    texts = draft.kind == "transformers"
    lines = [
        Line("model:"),
        Line("  source:"),
        Line(f"    kind: {draft.kind}"),
        Line(f"    weights: {scalar(draft.weights)}", "relative to this file"),
        *(Line(f"    {key}: {scalar(value)}") for key, value in draft.settings.items()),
        *([Line("    task: auto", "as config.json says; another one changes inputs and outputs")] if texts else []),
        *(_state(draft.state) if draft.state is not None else ()),
        *(Line("  ", f"The model's file: {note}.") for note in draft.model.notes),
    ]
    return [*lines, *_inputs(draft), *_outputs(draft), *_dims(draft.model), *_samples(draft)]


def _state(state: StateDict) -> list[Line]:
    lines = []
    if state.weights_key is not None:
        lines.append(Line(f"    weights_key: {scalar(state.weights_key)}", "where the state dict lies in the file"))
    such = (
        f"such as {' or '.join(state.classes)}, beside this file" if state.classes else "module:Class, beside this file"
    )
    lines.append(Line("    factory:", f"fill in what builds the architecture, {such}"))
    lines.append(Line("    # kwargs: {classes: 10}", "what it is called with, if anything"))
    if state.tensors:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in state.tensors)
        more = f" and {state.more} more" if state.more else ""
        lines.append(Line("  ", f"The file holds weights alone, no inputs and outputs: {shown}{more}."))
    return lines


def _inputs(draft: SpecDraft) -> list[Line]:
    inputs = draft.model.inputs
    if not inputs:
        inputs = [ProposedTensor("input", None, "", None)]
        return [
            Line("  inputs:", f"fill in one for each argument of forward, in its order, with a shape {_EXAMPLE}"),
            Line(f"    - {_tensor(inputs[0], with_dtype=True)}"),
        ]
    told = "as the model has them"
    if any(each.shape is None for each in inputs):
        told = f"fill in the shapes, {_EXAMPLE}"
    if any(not each.dtype for each in inputs):
        told += ", and set the types, which the file does not say"
    lines = [Line("  inputs:", told), *(Line(f"    - {_tensor(each, with_dtype=True)}") for each in inputs)]
    if draft.kind not in SAY_NOTHING:
        lines[0] = Line("  inputs:", f"{told}; to rename one, keep its own name as `tensor:`")
    return lines


def _outputs(draft: SpecDraft) -> list[Line]:
    outputs = draft.model.outputs
    if not outputs:
        return [
            Line("  outputs:", "one for each tensor that the model returns, in its order"),
            Line("    - {name: output}"),
        ]
    return [Line("  outputs:"), *(Line(f"    - {_tensor(each, with_dtype=False)}") for each in outputs)]


def _tensor(tensor: ProposedTensor, *, with_dtype: bool) -> str:
    parts = [f"name: {scalar(tensor.name)}"]
    parts += [f"tensor: {scalar(tensor.own)}"] if tensor.own is not None else []
    parts += [f"dtype: {tensor.dtype or 'float32'}"] if with_dtype else []
    if tensor.shape is not None:
        parts.append(f"shape: {_shape(tensor.shape)}")
    elif with_dtype:
        parts.append("shape: ")
    return f"{{{', '.join(parts)}}}"


def _shape(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(scalar(dim) if isinstance(dim, str) else str(dim) for dim in shape)}]"


def _dims(model: ProposedModel) -> list[Line]:
    if model.inputs and not model.dims and all(each.shape is not None for each in model.inputs):
        return [Line("  ", "All sizes are fixed in the model, so requests are not joined into batches.")]
    lines = [Line("  dims:", "the sizes that can come: proven and measured between them")]
    if not model.dims:
        return [*lines, Line("    batch: {min: 1, max: 64}", "assumed: set what can come")]
    for name, dim in model.dims.items():
        comment = "as the model says" if dim.said else "assumed: set what can come"
        lines.append(Line(f"    {scalar(name)}: {{min: {dim.min}, max: {dim.max}}}", comment))
    return lines


def _samples(draft: SpecDraft) -> list[Line]:
    if draft.samples is not None and not draft.random:
        return [Line(f"  samples: {scalar(draft.samples)}", "real inputs: parity, calibration, golden requests")]
    file = draft.samples or f"{draft.name}-samples.npz"
    means = (
        "Without `samples` the inputs are random: parity is proven on them alone, and int8, which real inputs "
        "calibrate, is not tried."
    )
    pattern = (
        f"{file} holds random inputs as a pattern: put real ones into it, one row each, then remove the `#`."
        if draft.samples is not None
        else "Put real ones into an .npz file, an array for each input by its name, one row each, then remove the `#`."
    )
    return [Line("  ", f"{means} {pattern}"), Line(f"  # samples: {scalar(file)}")]


def _service(draft: SpecDraft) -> list[Line]:
    memory = 2
    while memory * _GIB < 4 * draft.size:
        memory *= 2
    return [
        Line(
            f"hardware: {{cpus: 1, memory: {memory}Gi}}", "of one replica: what it will run on, and is measured under"
        ),
        Line(
            "# slo: {p99_latency: 50ms, throughput: 100/s}",
            "what is promised, if anything: apply fails where it is not met",
        ),
        Line("optimize_for: latency", "or throughput, or cost: what decides between those that meet the slo"),
        Line("deploy: {target: local}", "a server on this machine, on loopback"),
    ]
