"""What every conversion of a PyTorch model starts from: the module, its signature, its samples, a call to trace with."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.frameworks.pytorch.export_failure import conversion_failed
from orchestrator.frameworks.pytorch.runtime import call
from orchestrator.frameworks.pytorch.source import load_source
from orchestrator.frameworks.source.edge_inputs import call_at
from orchestrator.frameworks.source.imported import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.frameworks.source.samples import Samples
from orchestrator.frameworks.source.size_check import check_sizes, trace_sizes
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.source.samples import Array
    from orchestrator.frameworks.transformers.model import Attention
    from orchestrator.steps import StepContext

__all__ = ["TorchJob", "exported", "prepare", "quiet", "saved_program"]


@dataclass(frozen=True, slots=True)
class TorchJob:
    """A model to convert.

    Attributes:
        module: in evaluation mode, on the CPU.
        samples: the rows that `import` left.
        args: one call's inputs in the signature's order, with sizes that an exporter does not take for constants.
    """

    module: Any
    signature: Signature
    samples: Samples
    args: tuple[torch.Tensor, ...]

    def check(self, format_name: str, directory: Path) -> list[str]:
        """Run the variant in `directory` beside the module; see `check_sizes`.

        Raises:
            StepError: E420 it does not load, E423 it differs.
        """
        runtime = open_runtime(format_name, directory, self.signature, torch.get_num_threads())
        return check_sizes(self.signature, self.samples, self.call, runtime.run)

    def call(self, inputs: Any) -> dict[str, Array]:
        """One call of the source module."""
        return call(self.module, self.signature, inputs)


def prepare(context: StepContext, attention: Attention = "fused") -> TorchJob:
    """Load the source model and what `import` left about it.

    Args:
        context: of the step that converts.
        attention: how models of the Transformers library compute it; ONNX has no fused operator for it before opset 23.

    Raises:
        StepError: as `load_source` or `load_task_model`.
    """
    signature, samples = read_import(context.inputs["import"])
    with quiet():
        module = _module(context, signature, attention)
    first = call_at(samples, signature, trace_sizes(samples, signature))
    args = tuple(torch.from_numpy(first[tensor.name].copy()) for tensor in signature.inputs)
    return TorchJob(module, signature, samples, args)


def _module(context: StepContext, signature: Signature, attention: Attention) -> torch.nn.Module:
    if context.params["source"]["kind"] == "transformers":
        # Imported here, since it brings in a library that other models do without.
        from orchestrator.frameworks.transformers.source import load_task_model

        return load_task_model(context.params, context.inputs, signature, attention)
    return load_source(context.params, context.inputs, context.project)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what PyTorch and its exporters warn about their own code; nothing in it speaks of the user's model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", message=r"You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", message=r"no signature found for <torch\.ScriptMethod")
        warnings.filterwarnings("ignore", message=r"Exporting a model to ONNX with a batch_size other than 1")
        warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message=r"The feature will be removed\. Please remove usage of this function")
        yield


def exported(job: TorchJob, target: str) -> torch.export.ExportedProgram:
    """The model as an exported program whose dynamic axes are those of the signature.

    Args:
        job: what to export.
        target: what the program is for, to say it when it fails.

    Raises:
        StepError: E422.
    """
    try:
        with quiet(), torch.inference_mode(mode=False), torch.no_grad():
            program = torch.export.export(job.module, job.args, dynamic_shapes=_dynamic_shapes(job))
    # The exporter runs the model's code and raises what that raises, besides a dozen kinds of its own.
    except Exception as error:
        raise conversion_failed(target, error, frozenset(job.signature.dims)) from error
    return program


def saved_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `.pt2` archive without the stack traces of its nodes, which hold this machine's paths."""
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)
    with quiet():
        torch.export.save(program, str(path))


def _dynamic_shapes(job: TorchJob) -> tuple[Any, ...]:
    """What `torch.export.export` takes: for every positional argument a map of its dynamic axes, or None."""
    dims = {
        name: torch.export.Dim(name, min=low, max=high)
        for name, (low, high) in job.signature.dims.items()
        if low < high
    }
    shapes = [
        {axis: dims[dim] for axis, dim in enumerate(tensor.shape or ()) if dim in dims} or None
        for tensor in job.signature.inputs
    ]
    named = [
        parameter
        for parameter in inspect.signature(job.module.forward).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    if len(named) >= len(shapes):
        return tuple(shapes)
    # `def forward(self, *inputs)`: what is left over is one argument, a tuple.
    return (*shapes[: len(named)], tuple(shapes[len(named) :]))
