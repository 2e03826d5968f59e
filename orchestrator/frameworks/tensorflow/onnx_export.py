"""Converts to ONNX with tf2onnx, and checks, renames and saves the result as a variant."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.finish import canonical
from orchestrator.frameworks.onnx.graph import graphs, nodes, rename
from orchestrator.frameworks.source.samples import STRING
from orchestrator.frameworks.tensorflow.failures import converting, no_counterpart
from orchestrator.frameworks.tensorflow.frozen_graph import as_declared, trace
from orchestrator.frameworks.tensorflow.onnx_arithmetic import ARITHMETIC
from orchestrator.frameworks.tensorflow.onnx_indices import INDICES
from orchestrator.frameworks.tensorflow.onnx_nodes import OPSET, NoCounterpart, as_converted, tf2onnx
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.onnx.finish import OnnxSize
    from orchestrator.frameworks.tensorflow.model import TfModel
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["finish", "from_function", "from_tflite"]


def from_tflite(path: Path, signature: Signature) -> Any:
    """The ModelProto of a LiteRT model; its inputs and outputs have the names of the file's tensors.

    Raises:
        StepError: E422.
    """
    with converting("ONNX", signature, traced_anew=False), _listening() as failures:
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=OPSET, **_OWN)
    _refuse(failures)
    return model


def from_function(model: TfModel, signature: Signature) -> Any:
    """The ModelProto of a TensorFlow model; inputs in the signature's order, outputs by the signature's names.

    Raises:
        StepError: E422.
    """
    with converting("ONNX", signature, traced_anew=model.keras_model is not None):
        traced = trace(model)
        if any(operator.startswith("LookupTable") for operator in traced.operators()):
            raise _not_only_tensors()
        # tf2onnx turns variables into constants itself, but every other tensor of the model into an input.
        function = traced.module.call if traced.constant else as_declared(model)
        specs = function.input_signature
        with _listening() as failures:
            proto, _ = tf2onnx.convert.from_function(function, specs, opset=OPSET, **_OWN)
    if len(proto.graph.input) > len(specs):
        # tf2onnx turns constants that are not numbers into inputs.
        raise _not_only_tensors()
    _refuse(failures)
    return proto


def _not_only_tensors() -> StepError:
    return StepError(
        "E422",
        "the model does not convert to ONNX",
        cause="it looks up words in a table, or holds other objects that are not tensors",
        remedy="let the model take word ids, or leave this format out of `optimize.formats`",
    )


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


def _plain_thresholds(graph: Any, nodes: list[Any]) -> list[Any]:
    """ThresholdedRelu, which tf2onnx makes of x * (x > t), as that product again: of NaN it is 0, and the product NaN."""
    for node in [each for each in nodes if each.type == "ThresholdedRelu"]:
        value, shapes, dtypes = node.input[0], node.output_shapes, node.output_dtypes
        threshold = graph.make_const(
            tf2onnx.utils.make_name("threshold"), _scalar(node.get_attr_value("alpha"), dtypes[0])
        )
        graph.remove_node(node.name)
        above = graph.make_node("Greater", [value, threshold.output[0]])
        factor = graph.make_node("Cast", above.output, attr={"to": dtypes[0]})
        graph.make_node("Mul", [value, factor.output[0]], outputs=list(node.output), shapes=shapes, dtypes=dtypes)
    return list(graph.get_nodes())


def _scalar(value: float, kind: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(kind).type(value)


_OWN: dict[str, Any] = {
    "custom_op_handlers": {name: as_converted(handler) for name, handler in {**ARITHMETIC, **INDICES}.items()},
    "custom_rewriter": [_plain_thresholds],
}


class _Failures(logging.Handler):
    """Keeps what tf2onnx logs about the nodes that it could not convert; it continues with them half converted."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[tuple[str, BaseException]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the operator and what was raised."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and str(record.msg).startswith("Failed to convert node"):
            arguments = record.args if isinstance(record.args, tuple) else ()
            found = re.search(r"OP=(\w+)", str(arguments[-1])) if arguments else None
            self.seen.append((found[1] if found else "", error))


@contextmanager
def _listening() -> Iterator[list[tuple[str, BaseException]]]:
    """Silence tf2onnx's log, and give the operators that it says could not be converted, with what was raised."""
    logger = logging.getLogger("tf2onnx")
    level, failures = logger.level, _Failures()
    handlers, propagate = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [failures], False
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield failures.seen
    finally:
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate


def _refuse(failures: list[tuple[str, BaseException]]) -> None:
    """Refuse a model of which something was not converted.

    Raises:
        StepError: E422.
    """
    for operator, error in failures:
        raise StepError(
            "E422",
            "the model does not convert to ONNX",
            cause=f"ONNX has no counterpart for the operator {error}"
            if isinstance(error, NoCounterpart)
            else f"tf2onnx cannot convert the operator {operator}: {headline(error)}",
            remedy="write it with other operators, or leave this format out of `optimize.formats`",
        )


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
