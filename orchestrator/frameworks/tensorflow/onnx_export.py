"""Converts to ONNX with tf2onnx, and checks, renames and saves the result as a variant."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.finish import canonical
from orchestrator.frameworks.onnx.graph import graphs, nodes, rename
from orchestrator.frameworks.source.samples import STRING
from orchestrator.frameworks.tensorflow.failures import converting, no_counterpart
from orchestrator.frameworks.tensorflow.frozen_graph import as_declared, trace
from orchestrator.steps.context import StepError, refuse_as

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated uses of numpy and protobuf in tf2onnx
    import tf2onnx

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.onnx.finish import OnnxSize
    from orchestrator.frameworks.tensorflow.model import TfModel
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["finish", "from_function", "from_tflite"]

OPSET = 17
"""One below tf2onnx's newest opset, with which it writes global pooling as a reduction between two transpositions."""


def from_tflite(path: Path, signature: Signature) -> Any:
    """The ModelProto of a LiteRT model; its inputs and outputs have the names of the file's tensors.

    Raises:
        StepError: E422.
    """
    with converting("ONNX", signature, traced_anew=False), _quiet():
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=OPSET)
    return model


def from_function(model: TfModel, signature: Signature) -> Any:
    """The ModelProto of a TensorFlow model; inputs in the signature's order, outputs by the signature's names.

    Raises:
        StepError: E422.
    """
    with converting("ONNX", signature, traced_anew=model.keras_model is not None):
        traced = trace(model)
        # tf2onnx turns variables into constants itself, but every other tensor of the model into an input.
        function = traced.module.call if traced.constant else as_declared(model)
        specs = function.input_signature
        with _quiet():
            proto, _ = tf2onnx.convert.from_function(function, specs, opset=OPSET, custom_op_handlers=_HANDLERS)
    if len(proto.graph.input) > len(specs):
        # tf2onnx turns constants that are not numbers into inputs.
        raise StepError(
            "E422",
            "the model does not convert to ONNX",
            cause="it looks up words in a table, or holds other objects that are not tensors",
            remedy="let the model take word ids, or leave this format out of `optimize.formats`",
        )
    return proto


def finish(
    model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str], signature: Signature, path: Path
) -> OnnxSize:
    """Check, rename and save the model.

    Args:
        model: the ModelProto that tf2onnx returned.
        inputs: name in the spec → tf2onnx's name, in the signature's order.
        outputs: name in the spec → tf2onnx's name, in the signature's order.
        signature: with the outputs resolved.
        path: of the file to write.

    Returns:
        The opset and the number of nodes.

    Raises:
        StepError: E422 it contains operators that ONNX lacks, E424 its inputs or outputs are not the declared ones.
    """
    versions = {entry.domain: entry.version for entry in model.opset_import}
    # tf2onnx keeps operators that it cannot convert, among those of ONNX.
    unknown = {
        node.op_type.removeprefix("TFL_")  # LiteRT's own name with tf2onnx's prefix
        for node in nodes(model)
        if not onnx.defs.has(node.op_type, versions.get(node.domain, 1), node.domain)
    }
    if unknown:
        raise no_counterpart("ONNX", unknown)
    with refuse_as(KeyError, lambda error: StepError("E424", f"tf2onnx left out the tensor {error}")):
        rename(model, inputs, outputs)
    _forget_inner_sizes(model.graph)
    canonical(model)
    for value, tensor in zip(model.graph.input, signature.inputs, strict=True):
        _declare("input", value, tensor, signature)
    for value, tensor in zip(model.graph.output, signature.outputs, strict=True):
        _declare("output", value, tensor, signature)
    onnx.save(model, str(path))
    return onnx_finish.finish(path, signature)


def _erfc(graph: Any, node: Any, name: str, args: Any) -> None:
    """1 - erf(x), which Keras' GELU uses and tf2onnx does not support."""
    del name, args
    shapes, dtypes, outputs = node.output_shapes, node.output_dtypes, list(node.output)
    graph.remove_node(node.name)
    one = graph.make_const(tf2onnx.utils.make_name("one"), np.array(1.0, _FLOATS[dtypes[0]]))
    erf = graph.make_node("Erf", list(node.input), shapes=shapes, dtypes=dtypes)
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=outputs, shapes=shapes, dtypes=dtypes)


_FLOATS = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
}
_HANDLERS: dict[str, tuple[Any, list[Any]]] = {"Erfc": (_erfc, [])}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tf2onnx's log; operators that it could not convert are found in its result."""
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_inner_sizes(graph: Any) -> None:
    """Drop sizes whose names are numbers; runtimes infer what they need."""
    for each in graphs(graph):
        del each.value_info[:]
        for value in (*each.input, *each.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.Clear()


def _declare(role: str, value: Any, tensor: Tensor, signature: Signature) -> None:
    """Name the open dimensions, and fix those with a single size.

    Raises:
        StepError: E424, an element type differs.
    """
    kind = value.type.tensor_type
    found = (
        STRING
        if kind.elem_type == onnx.TensorProto.STRING
        else onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    )
    if found != tensor.dtype:
        raise StepError(
            "E424", f"the {role} {tensor.name} is {found} in the ONNX file, but {tensor.dtype} in the model"
        )
    shape = tensor.shape or ()
    if len(kind.shape.dim) != len(shape):
        del kind.shape.dim[:]
        for _ in shape:
            kind.shape.dim.add()
    for dim, declared in zip(kind.shape.dim, shape, strict=True):
        if dim.dim_value > 0:
            continue  # fixed; the comparison with the signature decides whether that is allowed
        low, high = signature.dims[declared] if isinstance(declared, str) else (declared, declared)
        dim.Clear()
        if low == high:
            dim.dim_value = low
        else:
            dim.dim_param = str(declared)
