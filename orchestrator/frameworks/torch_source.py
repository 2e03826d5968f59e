"""The import step for PyTorch: loads a source model, proves what the spec says of it, and records how it answers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from orchestrator.frameworks.edge_inputs import edge_cases
from orchestrator.frameworks.exported_archive import check_archive
from orchestrator.frameworks.import_result import Answered, write_import
from orchestrator.frameworks.samples import Samples, random_samples, read_samples
from orchestrator.frameworks.torch_calls import check_inputs, declared_outputs
from orchestrator.frameworks.torch_evaluation import prove_evaluation
from orchestrator.frameworks.torch_outputs import answer_rows, answer_whole, first_call, resolve_outputs
from orchestrator.frameworks.torch_runtime import TorchRuntime
from orchestrator.frameworks.torch_state import load_weights
from orchestrator.frameworks.torch_weights import AT_WEIGHTS, expect_kind, read_state_dict
from orchestrator.frameworks.user_code import AT_FACTORY, build
from orchestrator.spec.signature import Signature
from orchestrator.steps import StepContext, StepError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["check", "load_source", "open_baseline"]


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
    if "samples" in context.inputs:
        samples = read_samples(context.inputs["samples"], signature, int(context.params.get("max_rows", 256)))
    else:
        samples = random_samples(signature, int(context.params.get("seed", 0)))

    context.progress("proving evaluation mode")
    signature = declared_outputs(model, signature, first_call(samples, signature), context.project)
    prove_evaluation(
        model,
        signature,
        samples,
        context.project,
        saved_in_training=_SAVED_IN_TRAINING in notes,
    )
    signature = resolve_outputs(model, signature, samples, context.project)

    context.progress("answering the samples")
    outputs = answer_rows(model, signature, samples, context.project)
    _refuse_nan(outputs, samples)
    answered, left_out = _answer_edges(model, signature, samples, context.project)
    facts = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "samples": "real" if samples.real else "random",
        "rows": samples.rows,
        "labelled": samples.labels is not None,
        "framework": {"torch": torch.__version__.partition("+")[0]},
        "notes": [*notes, *samples.notes, *(case.note for case, _ in answered if case.note)],
        "infinite_outputs": sorted(name for name, array in outputs.items() if not _finite(array)),
        "edge_cases_not_finite": [
            case.name for case, edge in answered if not all(_finite(array) for array in edge.values())
        ],
        "edge_cases_left_out": left_out,
    }
    write_import(context.output, signature, samples, Answered(outputs, answered), facts)
    return facts


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
    params: Mapping[str, Any], inputs: Mapping[str, Path], project: Path, signature: Signature, threads: int
) -> TorchRuntime:
    """The model as given, as a runtime: what every variant is compared with.

    Args:
        params: as for `load_source`.
        inputs: as for `load_source`.
        project: as for `load_source`.
        signature: as the import step left it, since that has the outputs in the model's order.
        threads: for the operators of one call.

    Raises:
        StepError: as `load_source`.
    """
    return TorchRuntime(load_source(params, inputs, project), signature, threads, "pytorch")


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
        notes += load_weights(model, state)
    elif kind == "torchscript":
        model = _torchscript(weights)
        if getattr(model, "training", False):
            notes.append(_SAVED_IN_TRAINING)
    elif kind == "exported-program":
        model = _exported_program(weights)
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


def _torchscript(path: Path) -> torch.nn.Module:
    expect_kind(path, "torchscript", "torchscript")
    with warnings.catch_warnings():
        # Every function of torch.jit says that it is deprecated; the plan says so once, in words of its own.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        try:
            model: torch.nn.Module = torch.jit.load(str(path), map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise _damaged("the TorchScript archive cannot be loaded", error) from error
    return model


def _exported_program(path: Path) -> torch.nn.Module:
    expect_kind(path, "exported-program", "exported-program")
    check_archive(path)
    try:
        with path.open("rb") as file:  # by its name it would have to end in .pt2
            program = torch.export.load(file)
    # What it raises depends on which part of the archive is wrong (ValueError, KeyError, RuntimeError, ...).
    except Exception as error:
        raise _damaged("the exported program cannot be loaded", error) from error
    model: torch.nn.Module = program.module()
    return model.to("cpu")


def _damaged(message: str, error: Exception) -> StepError:
    return StepError(
        "E302",
        message,
        cause=(str(error).strip().splitlines() or [type(error).__name__])[0],
        remedy=f"save it again, with PyTorch {torch.__version__.partition('+')[0]} or older",
        at=AT_WEIGHTS,
    )


def _refuse_nan(outputs: Mapping[str, np.ndarray[Any, Any]], samples: Samples) -> None:
    for number, (name, array) in enumerate(outputs.items()):
        if array.dtype.kind != "f" or not np.isnan(array).any():
            continue
        rows = np.isnan(array).reshape(len(array), -1).any(axis=1).nonzero()[0]
        raise StepError(
            "E328",
            f"the model answers NaN in `{name}` for {len(rows)} of {samples.rows} samples",
            cause=f"the first is row {rows[0]}"
            + ("" if samples.real else "; the inputs are random, since no samples are given"),
            remedy="correct these samples or the model" if samples.real else "give real inputs in `samples:`",
            at=("model", "samples") if samples.real else ("model", "outputs", number),
        )


def _answer_edges(
    model: torch.nn.Module, signature: Signature, samples: Samples, project: Path
) -> tuple[list[Any], list[dict[str, str]]]:
    """Every edge case with its answer; and those about values that the model refuses, which is its right."""
    answered, left_out = [], []
    for case in edge_cases(samples, signature):
        try:
            answered.append((case, answer_whole(model, signature, case.inputs, project, case.dim)))
        except StepError as error:
            if case.dim is not None:
                raise
            left_out.append({"name": case.name, "reason": error.cause})
    return answered, left_out


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
