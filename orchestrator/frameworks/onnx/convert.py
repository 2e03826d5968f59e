"""Converts the user's ONNX model to the served variant: the spec's names, one file, only nodes that are run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.file import checker_error, embed, read_onnx, stored_bytes
from orchestrator.frameworks.onnx.graph import bodies, inner_graphs, prune, rename
from orchestrator.frameworks.onnx.runtime import open_given
from orchestrator.frameworks.onnx.signature import tensor_names
from orchestrator.frameworks.source.comparison import check_sizes
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.steps.context import refuse_on
from orchestrator.steps.parameters import ConvertParameters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.frameworks.onnx.file import ExternalData
    from orchestrator.spec.signature import Tensor
    from orchestrator.steps.context import StepContext

__all__ = ["to_onnx"]

_DATA_FILE = "model.onnx.data"
_SMALLEST_OUTSIDE = 1024
"""Tensors with more bytes than this go into the file of weights, if there is one."""
_ALIGNMENT = 4096
"""The alignment of tensors in that file, because ONNX Runtime maps it into memory by pages."""
_FIRST_WITHOUT_STORED_INPUTS = 4
"""The first IR version in which initializers do not have to be inputs."""
_OPSET_OF_IDENTITY = 13


def to_onnx(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.onnx` with the signature's names, order and dimensions.

    The weights go into the file itself or, if they are too large for that, into `model.onnx.data` beside it.

    Params: `ConvertParameters`. Inputs: `weights`, the files beside it, `import`.

    Raises:
        StepError: as `read_onnx`; E422 it cannot be written, E423 it differs from its source, E424 its inputs or outputs
            are not the declared ones.
    """
    context.progress("reading the model", 0.0)
    signature, samples = read_import(context.inputs["import"])
    names = tensor_names(ConvertParameters.from_json(context.params).source.names, signature)
    model = read_onnx(context.inputs["weights"])
    threads = len(os.sched_getaffinity(0))
    source = open_given(model, names, threads)
    checked, size = not checker_error(model), stored_bytes(model)
    context.progress("writing the model", 0.3)
    proto = model.proto
    _normalize(proto)
    rename(proto, names["inputs"], names["outputs"])
    prune(proto.graph)
    _set_shapes(proto.graph.input, signature.inputs)
    _set_shapes(proto.graph.output, signature.outputs)
    path = context.output / "model.onnx"
    if size <= onnx_finish.LARGEST_ONNX_FILE:
        embed(proto, model.data)
    else:
        _move_out(proto.graph, model.data, path.with_name(_DATA_FILE))
    # protobuf's limit
    with refuse_on(
        ValueError,
        "E422",
        "the model does not fit into an ONNX file",
        cause=lambda error: f"without its weights it is still too large: {error}",
        remedy="export it with its large tensors as initializers of the graph itself",
    ):
        path.write_bytes(proto.SerializeToString(deterministic=True))
    context.progress("checking the ONNX file", 0.6)
    graph = onnx_finish.finish(path, signature, checked=checked)
    variant = open_runtime("onnx", context.output, signature, threads)
    done = check_sizes(signature, samples, source.run, variant.run)
    facts = variant_facts(format="onnx", exporter="given", checked=tuple(done), **graph)
    facts.write(context.output)
    return facts.summary()


def _normalize(model: Any) -> None:
    """Drop what is not run or is no longer true, and update what old versions wrote."""
    model.ir_version = max(model.ir_version, _FIRST_WITHOUT_STORED_INPUTS)
    if not any(entry.domain in {"", "ai.onnx"} for entry in model.opset_import):
        model.opset_import.add(domain="", version=_OPSET_OF_IDENTITY)
    del model.configuration[:]
    for body in bodies(model):
        # Runtimes infer inner shapes; the stored ones have the old names of dimensions.
        del body.value_info[:]
        for node in body.node:
            del node.device_configurations[:]
            for graph in inner_graphs(node):
                for value in (*graph.input, *graph.output):
                    for dim in value.type.tensor_type.shape.dim:
                        dim.ClearField("dim_param")


def _set_shapes(values: Any, tensors: Sequence[Tensor]) -> None:
    """Give inputs or outputs the declared shapes: numbers, and the names of dimensions."""
    for value, tensor in zip(values, tensors, strict=True):
        shape = value.type.tensor_type.shape
        shape.Clear()
        shape.SetInParent()
        for size in tensor.shape or ():
            if isinstance(size, str):
                shape.dim.add(dim_param=size)
            else:
                shape.dim.add(dim_value=size)


def _move_out(graph: Any, data: ExternalData, path: Path) -> None:
    """Write the graph's initializers to `path`, one after the other, and only keep their positions in the model."""
    with path.open("wb") as file:
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.STRING:
                continue
            content = data.of(tensor) if uses_external_data(tensor) else _raw(tensor)
            if len(content) < _SMALLEST_OUTSIDE:
                continue
            file.write(bytes(-file.tell() % _ALIGNMENT))
            place = {"location": path.name, "offset": file.tell(), "length": len(content)}
            file.write(content)
            kept = tensor.name, tensor.data_type, list(tensor.dims)
            tensor.Clear()
            tensor.name, tensor.data_type = kept[:2]
            tensor.dims.extend(kept[2])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))


def _raw(tensor: Any) -> bytes:
    """A tensor's bytes, from whichever field contains them."""
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    return bytes(numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data)
