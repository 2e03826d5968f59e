"""Converts PyTorch models to TorchScript, exported programs and ONNX, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from orchestrator.frameworks.pytorch.tracing import Script, script_ways
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts.variant_facts import FrozenLine, VariantFacts
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

    The exporter of `torch.export` comes first. What it refuses (a TorchScript archive, an LSTM of dynamic length, a branch
    on values) goes through PyTorch's older exporter, which takes TorchScript: a trace that froze nothing, a script, or a
    trace that the spec accepts.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source, E424 the file is not what was declared, E428
            tracing would freeze a line of its code.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params), attention="plain")
    path = context.output / "model.onnx"
    options = {
        "input_names": [tensor.name for tensor in job.signature.inputs],
        "output_names": [tensor.name for tensor in job.signature.outputs],
    }

    def made(export: Callable[[], tuple[FrozenLine, ...]], *, python: bool) -> _Made:
        frozen = export()
        context.progress("checking the ONNX file", 0.6)
        graph = onnx_finish.finish(path, job.signature)
        checked = job.check("onnx", context.output, other_magnitudes=python and not frozen)
        return _Made(graph, checked, frozen)

    def from_script(way: Callable[[], Script]) -> _Made:
        return made(lambda: _legacy_onnx(job, way(), path, options), python=True)

    context.progress("exporting to ONNX", 0.1)
    notes: tuple[str, ...] = ()
    if isinstance(job.module, torch.jit.ScriptModule):
        way = "torchscript"
        done = made(lambda: _legacy_onnx(job, Script(job.module), path, options), python=False)
    else:
        try:
            way, done = "torch.export", made(lambda: _onnx(job, path, options), python=False)
        except StepError as refused:
            _empty(context.output)
            ways = [(name, partial(from_script, way)) for name, way in script_ways(job, refused.__cause__)]
            way, done = _first_that_works(ways, context.output, before=("torch.export", refused))
            if way == "trace":
                why = refused.cause or refused.message
                notes = (
                    f"torch.export refuses the model, so it was traced; the trace froze no line of its code ({why})",
                )
    facts = variant_facts(
        format="onnx", exporter=way, checked=tuple(done.checked), frozen=done.frozen, notes=notes, **done.graph
    )
    facts.write(context.output)
    return facts.summary()


@dataclass(frozen=True, slots=True)
class _Made:
    """An ONNX file: its size, the calls that it was checked with, and what was frozen in it."""

    graph: OnnxSize
    checked: list[str]
    frozen: tuple[FrozenLine, ...]


def to_torchscript(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt`, frozen.

    Tracing comes first, since it takes any Python code; scripting takes over where the trace would freeze a line.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source, E428 tracing would freeze a line of its code.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params))
    context.progress("tracing", 0.2)
    facts = script_of(job, context.output / "model.pt", context.progress)
    facts.write(context.output)
    return facts.summary()


def to_exported_program(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt2` with the signature's dynamic axes.

    Raises:
        StepError: E422 it does not convert, E423 it differs from its source.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params))
    context.progress("exporting", 0.2)
    saved_program(exported(job, "an exported program"), context.output / "model.pt2")
    context.progress("checking the exported program", 0.6)
    checked = job.check("exported-program", context.output)
    facts = variant_facts(format="exported-program", exporter="torch.export", checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def script_of(job: TorchJob, path: Path, progress: Callable[..., None], *, precision: str = "fp32") -> VariantFacts:
    """Write the job's module as TorchScript to `path` and check it.

    Returns:
        Its facts; `exporter` says how it was made: `given`, or one of `script_ways`.

    Raises:
        StepError: E422, E423 or E428, the failure of the first way, with those of the others in its notes.
    """

    def made(way: Callable[[], Script]) -> tuple[list[str], tuple[FrozenLine, ...]]:
        script = way()
        _save_script(script.module, path)
        progress("checking the TorchScript archive", 0.6)
        # In bfloat16 two right answers to values of another magnitude may lie far apart.
        beyond = precision == "fp32" and job.module is not script.module and not script.frozen
        return job.check("torchscript", path.parent, other_magnitudes=beyond), script.frozen

    if isinstance(job.module, torch.jit.ScriptModule):
        ways: list[tuple[str, Callable[[], Script]]] = [("given", lambda: Script(job.module))]
    else:
        ways = script_ways(job)
    how, (checked, frozen) = _first_that_works([(name, partial(made, way)) for name, way in ways], path.parent)
    return variant_facts(format="torchscript", precision=precision, exporter=how, checked=tuple(checked), frozen=frozen)


def _first_that_works(
    ways: Sequence[tuple[str, Callable[[], T]]], output: Path, *, before: tuple[str, StepError] | None = None
) -> tuple[str, T]:
    """The name and the result of the first method that raises no StepError; the files of failed ones are removed.

    Args:
        ways: the methods by name.
        output: where they write.
        before: another that failed already.

    Raises:
        StepError: that of the last trace where it would freeze a line, which the spec may accept; else that of the first way.
            It has the causes of the others in its notes.
    """
    failures: list[tuple[str, StepError]] = [] if before is None else [before]
    for name, make in ways:
        try:
            return name, make()
        except StepError as failure:
            failures.append((name, failure))
            _empty(output)
    chosen = next((each for each in reversed(failures) if each[1].code == "E428"), failures[0])
    others = dict.fromkeys(
        f"{name}: {failure.cause or failure.message}" for name, failure in failures if failure.cause != chosen[1].cause
    )
    error = chosen[1]
    error.diagnostic = replace(error.diagnostic, notes=(*error.notes, *others))
    raise error


def _empty(output: Path) -> None:
    for path in output.iterdir():
        path.unlink()


def _onnx(job: TorchJob, path: Path, options: dict[str, Any]) -> tuple[FrozenLine, ...]:
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
    return ()


def _legacy_onnx(job: TorchJob, script: Script, path: Path, options: dict[str, Any]) -> tuple[FrozenLine, ...]:
    axes = {
        tensor.name: {axis: dim for axis, dim in enumerate(tensor.shape or ()) if isinstance(dim, str)}
        for tensor in (*job.signature.inputs, *job.signature.outputs)
    }
    # It raises what its operator translations raise.
    with converting(job, "ONNX"):
        torch.onnx.export(script.module, job.args, str(path), dynamo=False, dynamic_axes=axes, **options)
    return script.frozen


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
    job = _narrowed(prepare(context, OptimizeParameters.from_json(context.params)))
    context.progress("tracing", 0.2)
    facts = script_of(job, context.output / "model.pt", context.progress, precision="bf16")
    facts.write(context.output)
    return facts.summary()


def exported_program_to_bf16(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.pt2` in bfloat16; inputs and parameters as in `to_exported_program`.

    Raises:
        StepError: E422 it does not convert, E423 it differs from the bfloat16 model that it was converted from.
    """
    context.progress("loading the model", 0.0)
    job = _narrowed(prepare(context, OptimizeParameters.from_json(context.params)))
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
