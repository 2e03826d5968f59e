"""Converts PyTorch models to TorchScript, exported programs and ONNX, in float32 and bfloat16."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils import _pytree as pytree

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.pytorch.archives import without_debug_files
from orchestrator.frameworks.pytorch.export import (
    TorchJob,
    conversion_failed,
    converting,
    exported,
    prepare,
    quiet,
    saved_program,
)
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.onnx.finish import OnnxSize
    from orchestrator.steps.context import StepContext

__all__ = [
    "Bfloat16",
    "exported_program_to_bf16",
    "script_of",
    "to_exported_program",
    "to_onnx",
    "to_torchscript",
    "torchscript_to_bf16",
]

T = TypeVar("T")


def to_onnx(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.onnx` with the signature's names and dynamic axes.

    The exporter of `torch.export` is tried first. If it fails (a TorchScript archive, an LSTM of dynamic length), PyTorch's
    older exporter is used, and the check at other sizes and values shows whether its result is correct.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source, E424 the file's inputs or outputs are not the
            declared ones.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source, attention="plain")
    path = context.output / "model.onnx"
    options = {
        "input_names": [tensor.name for tensor in job.signature.inputs],
        "output_names": [tensor.name for tensor in job.signature.outputs],
    }

    def made(export: Callable[..., None]) -> tuple[OnnxSize, list[str]]:
        export(job, path, options)
        context.progress("checking the ONNX file", 0.6)
        return onnx_finish.finish(path, job.signature), job.check("onnx", context.output)

    ways: list[tuple[str, Callable[[], tuple[OnnxSize, list[str]]]]] = [("torchscript", lambda: made(_legacy_onnx))]
    if not isinstance(job.module, torch.jit.ScriptModule):
        ways.insert(0, ("torch.export", lambda: made(_onnx)))
    context.progress("exporting to ONNX", 0.1)
    exporter, (graph, checked) = _first_that_works(ways, context.output)
    facts = variant_facts(format="onnx", exporter=exporter, checked=tuple(checked), **graph)
    facts.write(context.output)
    return facts.summary()


def to_torchscript(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt`, frozen.

    Tracing is tried first, because it accepts any Python code; if the trace fixed a branch or a size, scripting is used.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source)
    context.progress("tracing", 0.2)
    how, checked = script_of(job, context.output / "model.pt", context.progress)
    facts = variant_facts(format="torchscript", exporter=how, checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def to_exported_program(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt2` with the signature's dynamic axes.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source)
    context.progress("exporting", 0.2)
    saved_program(exported(job, "an exported program"), context.output / "model.pt2")
    context.progress("checking the exported program", 0.6)
    checked = job.check("exported-program", context.output)
    facts = variant_facts(format="exported-program", exporter="torch.export", checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def script_of(job: TorchJob, path: Path, progress: Callable[..., None]) -> tuple[str, list[str]]:
    """Write the module as TorchScript to `path` and check it.

    Returns:
        The method (`given`, `trace` or `script`), and the names of the calls that it was checked with.

    Raises:
        StepError: E422 or E423, the failure of the first method, with that of the second in its notes.
    """

    def made(make: Callable[[TorchJob], Any]) -> list[str]:
        _save_script(make(job), path)
        progress("checking the TorchScript archive", 0.6)
        return job.check("torchscript", path.parent)

    if isinstance(job.module, torch.jit.ScriptModule):
        return _first_that_works([("given", lambda: made(lambda job: job.module))], path.parent)
    return _first_that_works([("trace", lambda: made(_traced)), ("script", lambda: made(_scripted))], path.parent)


def _first_that_works(ways: Sequence[tuple[str, Callable[[], T]]], output: Path) -> tuple[str, T]:
    """The name and the result of the first method that raises no StepError; the files of failed ones are removed.

    Raises:
        StepError: that of the first method, with the causes of the others in its notes.
    """
    failures: list[tuple[str, StepError]] = []
    for name, make in ways:
        try:
            return name, make()
        except StepError as failure:
            failures.append((name, failure))
            for path in output.iterdir():
                path.unlink()
    (_, first), *others = failures
    notes = (*first.notes, *(f"{name}: {failure.cause or failure.message}" for name, failure in others))
    first.diagnostic = replace(first.diagnostic, notes=notes)
    raise first


def _onnx(job: TorchJob, path: Path, options: dict[str, Any]) -> None:
    program = exported(job, "ONNX")
    weights = sum(tensor.nbytes for tensor in (*job.module.parameters(), *job.module.buffers()))
    # It raises whatever its hundreds of operator translations raise.
    with converting(job, "ONNX"):
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            optimize=True,
            verbose=False,
            external_data=weights > onnx_finish.LARGEST_ONNX_FILE,
            **options,
        )


def _legacy_onnx(job: TorchJob, path: Path, options: dict[str, Any]) -> None:
    axes = {
        tensor.name: {axis: dim for axis, dim in enumerate(tensor.shape or ()) if isinstance(dim, str)}
        for tensor in (*job.signature.inputs, *job.signature.outputs)
    }
    module = job.module if isinstance(job.module, torch.jit.ScriptModule) else _traced(job)
    # It raises whatever its operator translations raise.
    with converting(job, "ONNX"):
        torch.onnx.export(module, job.args, str(path), dynamo=False, dynamic_axes=axes, **options)


def _traced(job: TorchJob) -> Any:
    # Tracing runs the model's code, which may raise anything.
    with converting(job, "TorchScript"), warnings.catch_warnings(), torch.no_grad():
        # The tracer warns about each branch and size that it may have fixed; the check at other sizes and values shows
        # whether it has.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(job.module, job.args, check_trace=False, strict=False)


def _scripted(job: TorchJob) -> Any:
    # The compiler's errors have no common base class.
    with converting(job, "TorchScript"):
        return torch.jit.script(job.module)


def _save_script(module: Any, path: Path) -> None:
    with quiet():
        # A frozen module has no `training` flag and cannot be frozen again. In the module of an exported program the flag
        # is set, although a program has no modes.
        frozen = torch.jit.freeze(module.eval()) if hasattr(module, "training") else module
        frozen.save(str(path))
    without_debug_files(path)


class Bfloat16(torch.nn.Module):  # type: ignore[misc]
    """A module in bfloat16 behind an unchanged interface: numpy and the serving protocols have no bfloat16.

    Args:
        module: converted to bfloat16 in place.
        outputs: the dtypes of the model's outputs.
    """

    def __init__(self, module: torch.nn.Module, outputs: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self.model = module.to(torch.bfloat16)
        self._outputs = outputs
        # Not eval(): the inner module already has its mode, and a loaded exported program raises if it is set.
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's outputs, in their own dtypes, in order."""
        narrow = [tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for tensor in inputs]
        leaves = [leaf for leaf in pytree.tree_leaves(self.model(*narrow)) if isinstance(leaf, torch.Tensor)]
        return tuple(leaf.to(dtype) for leaf, dtype in zip(leaves, self._outputs, strict=True))


def torchscript_to_bf16(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt` in bfloat16; inputs and parameters as in `to_torchscript`.

    Raises:
        StepError: E422 it does not convert, E423 it differs from the bfloat16 model that it was converted from.
    """
    context.progress("loading the model", 0.0)
    job = _narrowed(prepare(context, OptimizeParameters.from_json(context.params).source))
    context.progress("tracing", 0.2)
    how, checked = script_of(job, context.output / "model.pt", context.progress)
    facts = variant_facts(format="torchscript", precision="bf16", exporter=how, checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def exported_program_to_bf16(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt2` in bfloat16; inputs and parameters as in `to_exported_program`.

    Raises:
        StepError: E422 it does not convert, E423 it differs from the bfloat16 model that it was converted from.
    """
    context.progress("loading the model", 0.0)
    job = _narrowed(prepare(context, OptimizeParameters.from_json(context.params).source))
    context.progress("exporting", 0.2)
    saved_program(exported(job, "a bfloat16 program"), context.output / "model.pt2")
    context.progress("checking the exported program", 0.6)
    checked = job.check("exported-program", context.output)
    facts = variant_facts(format="exported-program", precision="bf16", exporter="torch.export", checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def _narrowed(job: TorchJob) -> TorchJob:
    """The conversion with its module in bfloat16, after one call."""
    try:
        with torch.inference_mode():
            dtypes = tuple(
                leaf.dtype for leaf in pytree.tree_leaves(job.module(*job.args)) if isinstance(leaf, torch.Tensor)
            )
            module = Bfloat16(job.module, dtypes)
            module(*job.args)
    # The model's code may mix dtypes and then raise anything; that is the reason.
    except Exception as error:
        failure = conversion_failed("bfloat16", error, frozenset(job.signature.dims))
        remedy = "let the model's code take dtypes from its weights instead of naming float32, or leave bf16 out of `optimize.precisions`"
        failure.diagnostic = replace(failure.diagnostic, remedy=remedy)
        raise failure from error
    return replace(job, module=module)
