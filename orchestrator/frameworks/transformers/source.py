"""Transformers folders as sources: inspection, the import step, and the model as the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from orchestrator.frameworks.pytorch.runtime import CPU, TorchRuntime, device_for
from orchestrator.frameworks.pytorch.source import prove
from orchestrator.frameworks.source.samples import read_samples
from orchestrator.frameworks.transformers.folder import read_folder
from orchestrator.frameworks.transformers.interface import interface, outputs, takes_by_name
from orchestrator.frameworks.transformers.library import transformers
from orchestrator.frameworks.transformers.model import architecture, filled, sentence_head, skeleton
from orchestrator.frameworks.transformers.samples import load_tokenizer, text_samples
from orchestrator.frameworks.transformers.task import TaskModel
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import ImportParameters, InspectParameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.frameworks.transformers.folder import ModelFolder
    from orchestrator.frameworks.transformers.model import Attention
    from orchestrator.spec.signature import Signature, Tensor
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters, TensorNames

__all__ = ["check", "inspect", "load_task_model", "open_baseline"]


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: derive the model's inputs and outputs for its task from its configuration; no weights are read.

    Params: `InspectParameters`. Inputs: `weights`, the folder.

    Raises:
        StepError: as `read_folder`, `architecture`, `skeleton` and `interface`.
    """
    task = InspectParameters.from_json(context.params).source.task
    folder = read_folder(context.inputs["weights"], task)
    context.progress("building the model without its weights")
    built = architecture(folder, task)
    found = interface(folder, built, skeleton(built), load_tokenizer(folder))
    found.write(context.output)
    return {
        "task": built.task,
        "class": built.cls.__name__,
        "inputs": [tensor.tensor for tensor in found.inputs],
        "outputs": [tensor.tensor for tensor in found.outputs],
    }


def check(context: StepContext) -> dict[str, Any]:
    """The import step: verifies everything that later steps rely on.

    Params: `ImportParameters`. Inputs:
    `weights`, and `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: as `read_folder`, `architecture` and `filled`; E321-E328 inputs and outputs, E330-E332 evaluation mode,
            E340-E345 the samples, E375 tensors that the task does not have.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    model, folder, notes = _loaded(parameters.source, context.inputs, signature, "fused")
    if "samples" in context.inputs:
        samples = read_samples(context.inputs["samples"], signature, parameters.max_rows)
    else:
        own = dict(zip((tensor.name for tensor in signature.inputs), model.takes, strict=True))
        vocabulary = int(getattr(model.model.config, "vocab_size", 0))
        samples = text_samples(signature, own, load_tokenizer(folder), vocabulary, parameters.seed)
    return prove(context, model, signature, samples, notes, {"transformers": transformers.__version__})


def load_task_model(
    source: SourceParameters, inputs: Mapping[str, Path], signature: Signature, attention: Attention
) -> TaskModel:
    """The model for its task, on the CPU, in evaluation mode, without gradients.

    Args:
        source: the parameters of the source.
        inputs: with the role `weights`.
        signature: the inputs and outputs, in this order.
        attention: its implementation.

    Raises:
        StepError: as `read_folder`, `architecture` and `filled`; E375 tensors that the task does not have.
    """
    return _loaded(source, inputs, signature, attention)[0]


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,  # noqa: ARG001 - code in the folder is never run
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TorchRuntime:
    """The model as given, as a runtime: the baseline of every variant.

    Called as an `OpenBaseline`.

    Raises:
        StepError: as `load_task_model`; E427 the GPU cannot be used.
    """
    device = device_for(accelerator)
    model = load_task_model(source, inputs, signature, "fused")
    return TorchRuntime(model if device == CPU else model.to(device), signature, threads, "transformers", device)


def _loaded(
    source: SourceParameters, inputs: Mapping[str, Path], signature: Signature, attention: Attention
) -> tuple[TaskModel, ModelFolder, tuple[str, ...]]:
    """The model, its folder, and notes on it."""
    asked = source.task
    folder = read_folder(inputs["weights"], asked)
    built = architecture(folder, asked)
    known = takes_by_name(built)
    takes = _own_names(source.names, "inputs", signature.inputs, known)
    returns = _own_names(source.names, "outputs", signature.outputs, [tensor.tensor for tensor in outputs(built)])
    if known[0] not in takes.values():
        raise _strange("inputs", 0, f"the model needs `{known[0]}`, which is not declared", known)
    model, notes = filled(folder, built, attention)
    head = None if built.modules is None else sentence_head(built.modules)
    task = TaskModel(model, tuple(takes.values()), tuple(returns.values()), head)
    for weight in task.parameters():
        weight.requires_grad_(requires_grad=False)
    return task, folder, notes


def _own_names(
    names: TensorNames, role: Literal["inputs", "outputs"], declared: Sequence[Tensor], known: Sequence[str]
) -> dict[str, str]:
    """Name in the spec → the model's own, in the signature's order.

    Raises:
        StepError: E375, the model has no tensor with that name.
    """
    given = names.of(role)
    owns = {tensor.name: given.get(tensor.name, tensor.name) for tensor in declared}
    for index, (name, own) in enumerate(owns.items()):
        if own not in known:
            raise _strange(role, index, f"the model has no {role.removesuffix('s')} `{own}` for `{name}`", known)
    return owns


def _strange(role: str, index: int, message: str, known: Sequence[str]) -> StepError:
    listed = ", ".join(f"`{name}`" for name in known)
    return StepError(
        "E375",
        message,
        cause=f"its {role} for this task are {listed}",
        remedy=f"declare these, or leave `{role}` out to have them read from the model",
        at=("model", role, index, "name"),
    )
