"""The text of a first spec, with comments on what the user should decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.draft.factories import FoundClasses
from orchestrator.draft.layout import Line, aligned, scalar
from orchestrator.draft.propose import AS_IN_SAMPLES, ProposedModel, ProposedTensor
from orchestrator.optimize.sources import SOURCES
from orchestrator.spec.batch_dimension import NO_BATCH
from orchestrator.spec.signature import Dim
from orchestrator.spec.source_models import SourceKind

__all__ = ["SpecDraft", "StateDict", "spec_text"]

_GIB = 2**30
_EXAMPLE = "such as [batch, 3, 224, 224]"


@dataclass(frozen=True, slots=True)
class StateDict:
    """What a file with weights only tells about the model.

    Attributes:
        weights_key: the path to the state dict in the file.
        tensors: name and shape of some matrices, as hints for the model's sizes.
        more: how many further matrices there are.
        classes: candidates for the factory.
    """

    weights_key: str | None
    tensors: Sequence[tuple[str, Sequence[int]]]
    more: int
    classes: FoundClasses


@dataclass(frozen=True, slots=True)
class SpecDraft:
    """The content of a first spec.

    Attributes:
        weights: the model's path, relative to the spec.
        size: bytes of the model's files.
        samples: an .npz file, relative to the spec; None if there is none.
        random: whether those samples are random.
        state: for a file with weights only.
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
    head = "# A first spec, written by `mlo init`. The comments show what you should decide.\n"
    return "\n".join([head + _metadata(draft), aligned(_model(draft)), aligned(_service(draft))])


def _metadata(draft: SpecDraft) -> str:
    return aligned(
        [
            Line("apiVersion: mlo/v1"),
            Line("kind: ModelDeployment"),
            Line("metadata:"),
            Line(f"  name: {draft.name}", "also used for images and URLs"),
        ]
    )


def _model(draft: SpecDraft) -> list[Line]:
    lines = [
        Line("model:"),
        Line("  source:"),
        Line(f"    kind: {draft.kind}"),
        Line(f"    weights: {scalar(draft.weights)}", "relative to this file"),
        *(Line(f"    {key}: {scalar(value)}") for key, value in draft.settings.items()),
        *(Line(f"    {key}: {value}", why) for key, (value, why) in SOURCES[draft.kind].stated.items()),
        *(_state(draft.state) if draft.state is not None else ()),
        *(Line("  ", f"About the model file: {note}.") for note in draft.model.notes),
        *(Line("  ", f"QUESTION: {question}.") for question in draft.model.questions),
    ]
    return [*lines, *_inputs(draft), *_outputs(draft), *_dims(draft.model), *_samples(draft)]


def _state(state: StateDict) -> list[Line]:
    lines = []
    if state.weights_key is not None:
        lines.append(Line(f"    weights_key: {scalar(state.weights_key)}", "location of the state dict in the file"))
    such = (
        f"such as {' or '.join(state.classes.names)}"
        if state.classes.names
        else "as module:Class, in a file next to this one"
    )
    lines.append(Line("    factory:", f"fill in the class that builds the architecture, {such}"))
    if state.classes.root:
        lines.append(Line(f"    path: [{scalar(state.classes.root)}]", "folders that modules are imported from"))
    lines.append(Line("    # kwargs: {classes: 10}", "its arguments, if any"))
    if state.tensors:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in state.tensors)
        more = f" and {state.more} more" if state.more else ""
        lines.append(Line("  ", f"The file contains only weights: {shown}{more}."))
    return lines


def _inputs(draft: SpecDraft) -> list[Line]:
    inputs = draft.model.inputs
    if not inputs:
        inputs = [ProposedTensor("input", None, "", None)]
        return [
            Line("  inputs:", f"fill in one per argument of forward, in order, with a shape {_EXAMPLE}"),
            Line(f"    - {_tensor(inputs[0], with_dtype=True)}"),
        ]
    comment = "read from the model"
    if any(each.remark == AS_IN_SAMPLES for each in inputs):
        comment = "one per argument of forward, in order; shapes and types are those of the samples"
    if any(each.shape is None for each in inputs):
        comment = f"fill in the shapes, {_EXAMPLE}"
    if any(not each.dtype for each in inputs):
        comment += ", and set the types, which the file does not specify"
    lines = [
        Line("  inputs:", comment),
        *(
            Line(f"    - {_tensor(each, with_dtype=True)}", "" if each.remark == AS_IN_SAMPLES else each.remark)
            for each in inputs
        ),
    ]
    if SOURCES[draft.kind].describes:
        lines[0] = Line("  inputs:", f"{comment}; to rename one, add the model's name as `tensor:`")
    return lines


def _outputs(draft: SpecDraft) -> list[Line]:
    outputs = draft.model.outputs
    if not outputs:
        return [
            Line("  outputs:", "one per tensor that the model returns, in order"),
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
    if tensor.allowed is not None:
        key, held = (
            ("range", tensor.allowed.range) if tensor.allowed.values is None else ("values", tensor.allowed.values)
        )
        parts.append(f"{key}: [{', '.join(map(str, held or ()))}]")
    return f"{{{', '.join(parts)}}}"


def _shape(shape: Sequence[Dim]) -> str:
    return f"[{', '.join(scalar(dim) if isinstance(dim, str) else str(dim) for dim in shape)}]"


def _dims(model: ProposedModel) -> list[Line]:
    if model.inputs and not model.dims and all(each.shape is not None for each in model.inputs):
        return [Line("  ", "All sizes are fixed in the model, so requests cannot be batched.")]
    lines = [Line("  dims:", "the expected range of each dimension, used for verification and benchmarks")]
    if not model.dims:
        return [*lines, Line("    batch: {min: 1, max: 64}", "assumed; set the range that you expect")]
    for name, dim in model.dims.items():
        comment = "read from the model" if dim.from_model else "assumed; set the range that you expect"
        step = f", multiple_of: {dim.multiple_of}" if dim.multiple_of > 1 else ""
        comment = f"tried: {dim.reason}" if dim.reason and not dim.from_model else comment
        lines.append(Line(f"    {scalar(name)}: {{min: {dim.min}, max: {dim.max}{step}}}", comment))
    if model.why_batch:
        lines.append(Line(f"  batch: {scalar(model.batch or NO_BATCH)}", f"tried: {model.why_batch}"))
    return lines


def _samples(draft: SpecDraft) -> list[Line]:
    if draft.samples is not None and not draft.random:
        return [
            Line(f"  samples: {scalar(draft.samples)}", "real inputs for verification, calibration and golden requests")
        ]
    file = draft.samples or f"{draft.name}-samples.npz"
    explanation = (
        "Without `samples`, the model is verified on random inputs only, and int8 is not tried because it needs real "
        "inputs for calibration."
    )
    without_rows = draft.model.why_batch != ""
    counted = "one whole request per entry of a first dimension" if without_rows else "one sample per row"
    pattern = (
        f"{file} contains random inputs as a template: replace them with real ones, {counted}, then remove the `#`."
        if draft.samples is not None
        else f"Save real inputs to an .npz file, one array per input name, {counted}, then remove the `#`."
    )
    return [Line("  ", f"{explanation} {pattern}"), Line(f"  # samples: {scalar(file)}")]


def _service(draft: SpecDraft) -> list[Line]:
    memory = 2
    while memory * _GIB < 4 * draft.size:
        memory *= 2
    return [
        Line(f"hardware: {{cpus: 1, memory: {memory}Gi}}", "of one replica; measurements use the same limits"),
        Line(
            "# slo: {p99_latency: 50ms, throughput: 100/s}",
            "optional service level; apply fails if it is not met",
        ),
        Line("optimize_for: latency", "or throughput, or cost: the goal among candidates that meet the slo"),
        Line("deploy: {target: local}", "a server on this machine, on loopback"),
    ]
