"""The import step for PyTorch: loads a source model, proves what the spec says of it, and records how it answers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.frameworks.pytorch.calls import answer_whole, check_inputs, declared_outputs
from orchestrator.frameworks.pytorch.evaluation import prove_evaluation
from orchestrator.frameworks.pytorch.exported_archive import check_archive
from orchestrator.frameworks.pytorch.runtime import CPU, TorchRuntime, device_for
from orchestrator.frameworks.pytorch.state import load_weights
from orchestrator.frameworks.pytorch.weights import read_state_dict
from orchestrator.frameworks.source.check import given_samples, record
from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS, expect_kind
from orchestrator.frameworks.source.outputs import first_call
from orchestrator.frameworks.source.user_code import AT_FACTORY, build
from orchestrator.spec.signature import Signature
from orchestrator.steps import StepContext, StepError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.source.accelerators import Accelerator
    from orchestrator.frameworks.source.samples import Array, Samples

__all__ = ["check", "load_exported_program", "load_source", "load_torchscript", "open_baseline", "prove"]


def check(context: StepContext) -> dict[str, Any]:
    """The import step: everything that the later steps take for granted about the source is proven here.

    Params: `source` (`kind`, and for `pytorch` `factory`, `kwargs`, `weights_key`), `signature` (as declared),
    `seed` of random samples, `max_rows` of given ones. Inputs: `weights`, and `samples` if given. Writes what
    `write_import` says.

    Raises:
        StepError: E301-E308 the weights, E310-E315 the factory, E320-E328 inputs and outputs, E330-E332 evaluation
            mode, E340-E345 the samples.
    """
    signature = Signature.from_json(context.params["signature"])
    context.progress("loading the model")
    model, notes = _load(context.params, context.inputs, context.project)
    check_inputs(model, signature)
    samples = given_samples(context, signature)
    return prove(context, model, signature, samples, notes)


def prove(
    context: StepContext,
    model: torch.nn.Module,
    signature: Signature,
    samples: Samples,
    notes: Sequence[str],
    framework: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The part of the import step that runs the model: its outputs, its evaluation mode, its answers.

    Args:
        context: of the import step.
        model: on the CPU, asked to be in evaluation mode.
        signature: as declared.
        samples: what it is asked.
        notes: what a person should know of the source.
        framework: package → version of what builds the model, besides PyTorch.

    Raises:
        StepError: E321-E328 inputs and outputs, E330-E332 evaluation mode.
    """
    context.progress("proving evaluation mode")
    signature = declared_outputs(model, signature, first_call(samples, signature), context.project)
    prove_evaluation(
        model,
        signature,
        samples,
        context.project,
        saved_in_training=_SAVED_IN_TRAINING in notes,
    )

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        return answer_whole(model, signature, inputs, context.project, dim)

    return record(
        context,
        answer,
        signature,
        samples,
        parameters=sum(weight.numel() for weight in model.parameters()),
        framework={"torch": torch.__version__.partition("+")[0], **(framework or {})},
        notes=notes,
    )


def load_source(params: Mapping[str, Any], inputs: Mapping[str, Path], project: Path) -> torch.nn.Module:
    """The source model on the CPU, in evaluation mode, no gradients wanted.

    Args:
        params: with `source`, as the import step has it.
        inputs: with the role `weights`.
        project: the spec's folder, where the factory is imported from.

    Raises:
        StepError: E301-E308 the weights, E310-E315 the factory.
    """
    return _load(params, inputs, project)[0]


def open_baseline(
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TorchRuntime:
    """The model as given, as a runtime: what every variant is compared with.

    Args:
        params: as for `load_source`.
        inputs: as for `load_source`.
        project: as for `load_source`.
        signature: as the import step left it, since that has the outputs in the model's order.
        threads: for the operators of one call.
        accelerator: what computes.

    Raises:
        StepError: as `load_source`; E427 the GPU is not used.
    """
    device = device_for(accelerator)
    model = load_source(params, inputs, project)
    return TorchRuntime(model if device == CPU else model.to(device), signature, threads, "pytorch", device)


_SAVED_IN_TRAINING = "source: the TorchScript archive was saved in training mode and put into evaluation mode"


def _load(
    params: Mapping[str, Any], inputs: Mapping[str, Path], project: Path
) -> tuple[torch.nn.Module, tuple[str, ...]]:
    source, weights = params["source"], inputs["weights"]
    notes: list[str] = []
    kind = source["kind"]
    if kind == "pytorch":
        # The file first: it fails in a moment, the user's code may take long.
        state = read_state_dict(weights, source.get("weights_key"))
        model = _built(source["factory"], source.get("kwargs") or {}, project)
        notes += load_weights(model, state, source.get("weights_key"))
    elif kind == "torchscript":
        model = load_torchscript(weights)
        if getattr(model, "training", False):
            notes.append(_SAVED_IN_TRAINING)
    elif kind == "exported-program":
        program: torch.nn.Module = load_exported_program(weights).module()
        model = program.to("cpu")
    else:
        raise ValueError(f"not a source kind of PyTorch: {kind}")
    if kind != "exported-program":  # which has no modes: it is as it was exported
        model.eval()
    for weight in model.parameters():
        weight.requires_grad_(requires_grad=False)
    return model, tuple(notes)


def _built(factory: str, kwargs: Mapping[str, Any], project: Path) -> torch.nn.Module:
    model = build(factory, kwargs, project)
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
    """The TorchScript archive as it was saved, on the CPU.

    Raises:
        StepError: E301, E302.
    """
    expect_kind(path, "torchscript", "torchscript")
    with warnings.catch_warnings():
        # Every function of torch.jit says that it is deprecated; the plan says so once, in words of its own.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        try:
            return torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise _damaged("the TorchScript archive cannot be loaded", error) from error


def load_exported_program(path: Path) -> Any:
    """The exported program, after a check that loading it runs nothing.

    Raises:
        StepError: E301, E302, E303.
    """
    expect_kind(path, "exported-program", "exported-program")
    check_archive(path)
    try:
        with path.open("rb") as file:  # by its name it would have to end in .pt2
            return torch.export.load(file)
    # What it raises depends on which part of the archive is wrong (ValueError, KeyError, RuntimeError, ...).
    except Exception as error:
        raise _damaged("the exported program cannot be loaded", error) from error


def _damaged(message: str, error: Exception) -> StepError:
    return StepError(
        "E302",
        message,
        cause=(str(error).strip().splitlines() or [type(error).__name__])[0],
        remedy=f"save it again, with PyTorch {torch.__version__.partition('+')[0]} or older",
        at=AT_WEIGHTS,
    )
