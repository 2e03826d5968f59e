"""The common start of all conversions of PyTorch models, and the meaning of exporters' exceptions."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.frameworks.pytorch.runtime import as_tensors, call
from orchestrator.frameworks.pytorch.source import load_source
from orchestrator.frameworks.source.comparison import check_sizes, trace_sizes
from orchestrator.frameworks.source.edge_cases import call_at
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.frameworks.source.samples import Samples
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.source.samples import Array
    from orchestrator.frameworks.transformers.model import Attention
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters, SourceParameters

__all__ = [
    "TorchJob",
    "conversion_failed",
    "converting",
    "depends_on_values",
    "exported",
    "innermost",
    "prepare",
    "quiet",
    "saved_program",
]

_SPECIALISED = re.compile(
    r"marked (?P<dim>\w+) as dynamic but your code specialized it to be a constant \((?P<size>\d+)\)"
)
_UNSATISFIED = re.compile(
    r"Not all values of (?P<dim>\w+) = (?P<size>\S+) in .* satisfy the generated guard (?P<guard>.+?)\.?$", re.MULTILINE
)
_DATA_DEPENDENT = re.compile(r"[Cc]ould not guard on data-dependent expression|Dynamic control flow is not supported")
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<op>[\w.:]+)'")
_USER_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>\S.*)')
_BOILERPLATE = re.compile(
    r"^(Failed to (export|convert|decompose)|This is step|#|\(?Refer to|The error above|For more information)"
)


def innermost(error: BaseException) -> BaseException:
    """The original exception, which exporters wrap several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def depends_on_values(error: BaseException) -> bool:
    """Whether an exporter stopped because the model's code lets Python decide by the values of a tensor."""
    root = innermost(error)
    return _DATA_DEPENDENT.search(str(root)) is not None or type(root).__name__ == "DataDependentOutputException"


def conversion_failed(target: str, error: Exception, dims: frozenset[str]) -> StepError:
    """The error for a failed conversion; the whole traceback goes to the log (standard error).

    Args:
        target: the format, such as "ONNX".
        error: the converter's exception.
        dims: the declared dimensions, to find the line in the spec.

    Returns:
        E422 with the reason as its cause and, if a dimension is the reason, its place in the spec.
    """
    traceback.print_exception(error, file=sys.stderr)
    message = f"the model does not convert to {target}"
    root = innermost(error)
    text = str(root)
    if (match := _SPECIALISED.search(text)) and match["dim"] in dims:
        return StepError(
            "E422",
            message,
            cause=f"exporting fixes dimension {match['dim']} at {match['size']}: "
            "the model's code, or one of its layers, treats it as a constant",
            remedy=f"read sizes from the tensor's shape in the model's code, or declare dimension {match['dim']} as {match['size']}",
            at=("model", "dims", match["dim"]),
        )
    if (match := _UNSATISFIED.search(text)) and match["dim"] in dims:
        needed = match["guard"].replace(match["size"], match["dim"])
        return StepError(
            "E422",
            message,
            cause=f"the model does not work for every declared size of dimension {match['dim']}: it needs {needed}",
            remedy=f"narrow the range of dimension {match['dim']}, or change the model's code",
            at=("model", "dims", match["dim"]),
        )
    if depends_on_values(root):
        place = _USER_LINE.search(text)
        where = f" ({PurePath(place['file']).name}:{place['line']}: {place['code'].strip()})" if place else ""
        return StepError(
            "E422",
            message,
            cause=f"a branch in its code depends on the values of a tensor{where}",
            remedy="write the branch with torch.where or torch.cond",
        )
    if match := _NO_OPERATOR.search(text):
        return StepError(
            "E422",
            message,
            cause=f"ONNX has no counterpart for the operator {match['op']}",
            remedy="write it with other operators, or leave this format out of `optimize.formats`",
        )
    return StepError("E422", message, cause=headline(root, skip=_BOILERPLATE))


@dataclass(frozen=True, slots=True)
class TorchJob:
    """A model to convert.

    Attributes:
        module: in evaluation mode, on the CPU.
        samples: the rows from the import step.
        example: the inputs of one call, with sizes that exporters do not treat as constants.
        project: the spec's folder.
        accept_traced: places in the model's code, such as `net.py:9`, that a trace may freeze.
    """

    module: Any
    signature: Signature
    samples: Samples
    example: Mapping[str, Array]
    project: Path
    accept_traced: frozenset[str]

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        """The example as tensors in the signature's order; new ones each time, because the model may write into them."""
        return tuple(as_tensors(self.signature, self.example))

    def check(self, format_name: str, directory: Path, *, other_magnitudes: bool = False) -> list[str]:
        """Compare the variant in `directory` with the module; see `check_sizes`.

        Raises:
            StepError: E420 it cannot be loaded, E423 it differs.
        """
        runtime = open_runtime(format_name, directory, self.signature, torch.get_num_threads())
        return check_sizes(self.signature, self.samples, self.call, runtime.run, other_magnitudes=other_magnitudes)

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call of the source module."""
        return call(self.module, self.signature, inputs)


def prepare(
    context: StepContext, parameters: ConvertParameters | OptimizeParameters, attention: Attention = "fused"
) -> TorchJob:
    """Load the source model and the output of the import step.

    Args:
        context: of the step that converts.
        parameters: of that step.
        attention: its implementation in models of the Transformers library; ONNX has no fused operator before opset 23.

    Raises:
        StepError: as `load_source` or `load_task_model`.
    """
    signature, samples = read_import(context.inputs["import"])
    with quiet():
        module = _module(context, parameters.source, signature, attention)
    example = call_at(samples, signature, trace_sizes(samples, signature))
    return TorchJob(module, signature, samples, example, context.project, frozenset(parameters.accept_traced))


def _module(
    context: StepContext, source: SourceParameters, signature: Signature, attention: Attention
) -> torch.nn.Module:
    if source.kind == "transformers":
        # Imported here, because it needs a library that other models do not need.
        from orchestrator.frameworks.transformers.source import load_task_model

        return load_task_model(source, context.inputs, signature, attention)
    return load_source(source, context.inputs, context.project)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of PyTorch and its exporters about their own code; none of them is about the user's model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", message=r"You are using the legacy TorchScript-based ONNX export")
        # Whoever calls an ONNX file keeps its inputs as they were; the check compares the answers.
        warnings.filterwarnings("ignore", message=r"ONNX Preprocess - Removing mutation from node")
        warnings.filterwarnings("ignore", message=r"no signature found for <torch\.ScriptMethod")
        warnings.filterwarnings("ignore", message=r"Exporting a model to ONNX with a batch_size other than 1")
        warnings.filterwarnings("ignore", message=r"`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message=r"The feature will be removed\. Please remove usage of this function")
        yield


@contextmanager
def converting(job: TorchJob, target: str) -> Iterator[None]:
    """Turn any exception of an exporter into E422: its errors have no common base class, and it runs the model's code.

    Args:
        job: the conversion.
        target: the format, such as "ONNX".

    Raises:
        StepError: E422.
    """
    with refuse_as(Exception, lambda error: conversion_failed(target, error, frozenset(job.signature.dims))), quiet():
        yield


def exported(job: TorchJob, target: str) -> torch.export.ExportedProgram:
    """The model as an exported program with the dynamic axes of the signature.

    Args:
        job: the conversion.
        target: the format that the program is for, for the error message.

    Raises:
        StepError: E422.
    """
    with converting(job, target), torch.inference_mode(mode=False), torch.no_grad():
        return torch.export.export(job.module, job.args, dynamic_shapes=_dynamic_shapes(job))


def saved_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `.pt2` archive without the stack traces of its nodes, which contain paths of this machine."""
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)
    with quiet():
        torch.export.save(program, str(path))


def _dim(name: str, low: int, high: int, step: int) -> Any:
    """A dimension for `torch.export`, which has multiples as a factor of another: `32*_height`."""
    if step == 1:
        return torch.export.Dim(name, min=low, max=high)
    return step * torch.export.Dim(f"_{name}", min=low // step, max=high // step)


def _dynamic_shapes(job: TorchJob) -> tuple[Any, ...]:
    """The argument of `torch.export.export`: for every positional argument a map of its dynamic axes, or None."""
    dims = {
        name: _dim(name, low, high, job.signature.multiples.get(name, 1))
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
    # `def forward(self, *inputs)`: the remaining inputs are one argument, a tuple.
    return (*shapes[: len(named)], tuple(shapes[len(named) :]))
