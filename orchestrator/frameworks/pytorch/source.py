"""PyTorch models as sources: inspection, the import step, and the model as the baseline."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from orchestrator.artifacts.inspection import FoundNote, FoundTensor, FoundWeights, Inspection
from orchestrator.frameworks.pytorch.archives import check_archive, structures
from orchestrator.frameworks.pytorch.calls import call_model, check_inputs, declared_outputs, guarded_call
from orchestrator.frameworks.pytorch.evaluation import verify_evaluation_mode
from orchestrator.frameworks.pytorch.ids import ids_of_inputs
from orchestrator.frameworks.pytorch.program_dims import ProgramDims
from orchestrator.frameworks.pytorch.programs import by_position, tensor_inputs
from orchestrator.frameworks.pytorch.runtime import CPU, TorchRuntime, device_for
from orchestrator.frameworks.pytorch.stand_ins import register_stand_ins
from orchestrator.frameworks.pytorch.weights import find_state_dict, load_weights, read_state_dict
from orchestrator.frameworks.source.edge_cases import call_at, sizes_of
from orchestrator.frameworks.source.import_step import given_samples, record
from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.frameworks.source.outputs import first_call
from orchestrator.frameworks.source.probe import write_probed
from orchestrator.frameworks.source.samples import random_samples
from orchestrator.frameworks.source.smallest_batch import naming_the_batch
from orchestrator.frameworks.source.user_code import AT_FACTORY, build
from orchestrator.steps.context import StepContext, StepError, refuse_as
from orchestrator.steps.parameters import CodeAccess, ImportParameters, InspectParameters, ProbeParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.frameworks.source.samples import Array, IntegerRange, Samples
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters

__all__ = [
    "check",
    "inspect",
    "load_exported_program",
    "load_source",
    "load_torchscript",
    "open_baseline",
    "probe",
    "prove",
]


def check(context: StepContext) -> dict[str, Any]:
    """The import step: verifies everything that later steps rely on.

    Params: `ImportParameters`. Inputs: `weights`, and `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: E301-E308 the weights, E310-E315 the factory, E320-E328 inputs and outputs, E330-E332 evaluation
            mode, E340-E345 the samples.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    model, notes = _load(parameters.source, context.inputs, context.project)
    check_inputs(model, signature)

    def tried(inputs: Mapping[str, Array]) -> list[Array]:
        return list(_unnamed(model, signature, inputs, context.project).values())

    def shown() -> Mapping[str, IntegerRange]:
        plain = random_samples(signature, parameters.seed)
        return ids_of_inputs(model, signature, call_at(plain, signature, sizes_of(plain, signature)))

    samples = given_samples(context, parameters, tried, shown)
    return prove(context, model, signature, samples, notes)


def probe(context: StepContext) -> dict[str, Any]:
    """Step: find out by calling an exported program what sizes and integers it takes.

    Params: `ProbeParameters`. Inputs: `weights`. Leaves a `Probed`.

    Raises:
        StepError: E301-E303 the file.
    """
    parameters = ProbeParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    model, _ = _load(parameters.source, context.inputs, context.project)

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        del dim
        return call_model(model, signature, inputs, context.project)

    plain = random_samples(signature, 0)
    shown = ids_of_inputs(model, signature, call_at(plain, signature, sizes_of(plain, signature)))
    return write_probed(context, answer, shown)


def _unnamed(
    model: torch.nn.Module, signature: Signature, inputs: Mapping[str, Array], project: Path
) -> dict[str, Array]:
    """The tensors that a call returns, in the model's order, before it is known how they are called."""
    leaves = pytree.tree_leaves(guarded_call(model, signature, inputs, project))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return {
        f"output {number}": (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy(force=True).copy()
        for number, leaf in enumerate(tensors)
    }


def prove(
    context: StepContext,
    model: torch.nn.Module,
    signature: Signature,
    samples: Samples,
    notes: Sequence[str],
    framework: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The part of the import step that runs the model: outputs, evaluation mode, and results on the samples.

    Args:
        context: of the import step.
        model: on the CPU, put into evaluation mode.
        signature: as declared.
        samples: the inputs to run it on.
        notes: what the user should know about the source.
        framework: package → version, for packages other than PyTorch that build the model.

    Raises:
        StepError: E321-E328 inputs and outputs, E330-E332 evaluation mode.
    """
    context.progress("proving evaluation mode")
    with naming_the_batch(lambda inputs: guarded_call(model, signature, inputs, context.project), signature, samples):
        signature = declared_outputs(model, signature, first_call(samples, signature), context.project)
        found = verify_evaluation_mode(
            model,
            signature,
            samples,
            context.project,
            saved_in_training=_SAVED_IN_TRAINING in notes,
        )

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        return call_model(model, signature, inputs, context.project, dim)

    return record(
        context,
        answer,
        signature,
        samples,
        parameters=sum(weight.numel() for weight in model.parameters()),
        framework={"torch": torch.__version__.partition("+")[0], **(framework or {})},
        notes=[*notes, *found],
    )


def load_source(source: SourceParameters, inputs: Mapping[str, Path], project: Path) -> torch.nn.Module:
    """The source model on the CPU, in evaluation mode, without gradients.

    Args:
        source: the parameters of the source.
        inputs: with the role `weights`.
        project: the spec's folder, from which the factory is imported.

    Raises:
        StepError: E301-E308 the weights, E310-E315 the factory.
    """
    return _load(source, inputs, project)[0]


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TorchRuntime:
    """The model as given, as a runtime: the baseline of every variant.

    Called as an `OpenBaseline`.

    Raises:
        StepError: as `load_source`; E427 the GPU cannot be used.
    """
    device = device_for(accelerator)
    model = load_source(source, inputs, project)
    return TorchRuntime(model if device == CPU else model.to(device), signature, threads, "pytorch", device)


_SAVED_IN_TRAINING = "source: the TorchScript archive was saved in training mode and is run in evaluation mode"


def _load(
    source: SourceParameters, inputs: Mapping[str, Path], project: Path
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    weights = inputs["weights"]
    notes: list[str] = []
    kind = source.kind
    if kind == "pytorch":
        if source.factory is None:
            raise ValueError("a state dict needs a factory")
        # The file first, because it fails quickly, while the user's code may take long.
        state = read_state_dict(weights, source.weights_key)
        model = _built(source.factory, source.kwargs, project, CodeAccess(source.path, source.env))
        notes += load_weights(model, state, source.weights_key)
    elif kind == "torchscript":
        model = load_torchscript(weights)
        if getattr(model, "training", False):
            notes.append(_SAVED_IN_TRAINING)
    elif kind == "exported-program":
        model = by_position(load_exported_program(weights)).to("cpu")
    else:
        raise ValueError(f"not a source kind of PyTorch: {kind}")
    if kind != "exported-program":  # it has no modes and stays as exported
        model.eval()
    for weight in model.parameters():
        weight.requires_grad_(requires_grad=False)
    return model, tuple(notes)


def _built(factory: str, kwargs: Mapping[str, Any], project: Path, access: CodeAccess) -> torch.nn.Module:
    model = build(factory, kwargs, project, access)
    if not isinstance(model, torch.nn.Module):
        raise StepError(
            "E315",
            f"`{factory}` does not return a torch.nn.Module",
            cause=f"it returns a {type(model).__name__}",
            remedy="return the model itself",
            at=AT_FACTORY,
        )
    return model.to("cpu")


def load_torchscript(path: Path) -> Any:
    """The TorchScript archive as saved, on the CPU.

    Raises:
        StepError: E301, E302.
    """
    expect_kind(path, "torchscript", "torchscript")
    with warnings.catch_warnings():
        # Every function of torch.jit warns that it is deprecated; the plan mentions it once.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        with refuse_as(
            (RuntimeError, ValueError), lambda error: _damaged("the TorchScript archive cannot be loaded", error)
        ):
            return torch.jit.load(str(path), map_location="cpu")


def load_exported_program(path: Path) -> Any:
    """The exported program, after a check that loading it runs no code.

    Raises:
        StepError: E301, E302, E303.
    """
    expect_kind(path, "exported-program", "exported-program")
    check_archive(path)
    for structure in structures(path):
        register_stand_ins(structure)
    # The exception depends on which part of the archive is damaged (ValueError, KeyError, RuntimeError, ...).
    # Given by name, the archive would have to end in .pt2.
    with (
        refuse_as(Exception, lambda error: _damaged("the exported program cannot be loaded", error)),
        path.open("rb") as file,
    ):
        return torch.export.load(file)


def _damaged(message: str, error: Exception) -> StepError:
    return StepError(
        "E302",
        message,
        cause=headline(error),
        remedy=f"save it again, with PyTorch {torch.__version__.partition('+')[0]} or older",
        at=AT_WEIGHTS,
    )


_SHOWN = 4


def inspect(context: StepContext) -> dict[str, Any]:
    """The step `inspect` for PyTorch's source kinds, whose specs must declare inputs and outputs.

    An exported program describes them completely. A TorchScript archive only has their number and their names in the code,
    without types or shapes (`dtype` is then empty). A state dict has neither; `weights` describes its tensors.

    Raises:
        StepError: E301-E304, E308 the file.
    """
    weights = context.inputs["weights"]
    kind = InspectParameters.from_json(context.params).source.kind
    context.progress("reading the model")
    found = {"exported-program": _exported_program, "torchscript": _torchscript, "pytorch": _state_dict}[kind](weights)
    found.write(context.output)
    return {"inputs": [tensor.tensor for tensor in found.inputs], "outputs": [each.tensor for each in found.outputs]}


def _exported_program(weights: Path) -> Inspection:
    program = load_exported_program(weights)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    results = next(node for node in program.graph.nodes if node.op == "output").meta.get("val")
    names = tensor_inputs(program)
    dims = ProgramDims({name: values.get(name) for name in names}, program.range_constraints)
    returned = zip(_output_names(program), _user_outputs(program, results), strict=True)
    return Inspection(
        inputs=tuple(_found(name, values.get(name), dims) for name in names),
        outputs=tuple(_found(name, value, dims) for name, value in returned if value is not None),
        ranges=dims.ranges,
        multiples=dims.multiples,
        files=(),
        notes=tuple(dims.notes),
        weights=None,
    )


def _found(name: str, value: Any, dims: ProgramDims) -> FoundTensor:
    """What the graph shows of an input or output; of what is no tensor, the name of its type."""
    if not isinstance(value, torch.Tensor):
        return FoundTensor(name, type(value).__name__, ())
    return FoundTensor(name, str(value.dtype).removeprefix("torch."), dims.shape(value))


def _user_outputs(program: Any, results: Sequence[Any]) -> list[Any]:
    """What the graph gives for each leaf that a call returns, in order."""
    kinds = [spec.kind for spec in program.graph_signature.output_specs]
    return [value for kind, value in zip(kinds, results, strict=True) if kind is OutputKind.USER_OUTPUT]


def _output_names(program: Any) -> list[str]:
    """The keys of the returned dictionary, or numbers."""
    count = len(program.graph_signature.user_outputs)
    spec = program.call_spec.out_spec
    if spec is not None and isinstance(spec.type, type) and issubclass(spec.type, dict) and spec.num_leaves == count:
        order = pytree.tree_unflatten(list(range(count)), spec)
        keys = {place: str(key) for key, place in order.items() if isinstance(place, int)}
        if len(keys) == count:
            return [keys[place] for place in range(count)]
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


def _torchscript(weights: Path) -> Inspection:
    schema = load_torchscript(weights).forward.schema
    inputs = tuple(_argument(each.name, each.type) for each in schema.arguments[1:] if not each.has_default_value())
    returned = [each.type for each in schema.returns]
    if len(returned) == 1 and returned[0].kind() == "TupleType":
        returned = returned[0].elements()
    notes = []
    if any(each.kind() != "TensorType" for each in returned):
        kinds = ", ".join(each.annotation_str for each in returned)
        notes.append(FoundNote(f"it returns {kinds}: its outputs are only known once it runs, so name each of them"))
        returned = []
    names = ["output"] if len(returned) == 1 else [f"output_{number}" for number in range(len(returned))]
    outputs = tuple(FoundTensor(name, "", None) for name in names)
    return Inspection(
        inputs=inputs, outputs=outputs, ranges={}, multiples={}, files=(), notes=tuple(notes), weights=None
    )


def _argument(name: str, kind: Any) -> FoundTensor:
    if kind.kind() == "TensorType":
        return FoundTensor(name, "", None)
    return FoundTensor(name, str(kind.annotation_str), None)


def _state_dict(weights: Path) -> Inspection:
    key, tensors = find_state_dict(weights)
    # Files sort them by name or by size; layers are usually numbered, so 2 comes before 10.
    matrices = sorted((name for name, tensor in tensors.items() if tensor.ndim > 1), key=_natural)
    shown = tuple((name, tuple(tensors[name].shape)) for name in matrices[:_SHOWN])
    found = FoundWeights(key, shown, max(0, len(matrices) - _SHOWN))
    return Inspection(inputs=(), outputs=(), ranges={}, multiples={}, files=(), notes=(), weights=found)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
