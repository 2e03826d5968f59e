"""What mlo's own handlers for tf2onnx are written with: a node of TensorFlow, and the nodes of ONNX that replace it.

tf2onnx calls a handler with its graph and one node of TensorFlow (of LiteRT too, which it first translates to TensorFlow's
operators). Whatever a handler raises, tf2onnx logs and goes on; `onnx_export` reads its log and refuses the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of numpy's and protobuf's older ways, which tf2onnx still has
    import tf2onnx
    import tf2onnx.tfonnx

__all__ = ["FLOATS", "OPSET", "SIGNED", "UNSIGNED", "Handler", "NoCounterpart", "Replaced", "as_converted", "tf2onnx"]

OPSET = 17
"""One below the newest that tf2onnx knows, with which it writes global pooling as a reduction between two transpositions."""

Handler = Callable[["Replaced"], None]

_TYPE = onnx.TensorProto
FLOATS = frozenset({_TYPE.FLOAT, _TYPE.DOUBLE, _TYPE.FLOAT16})
SIGNED = frozenset({_TYPE.INT8, _TYPE.INT16, _TYPE.INT32, _TYPE.INT64})
UNSIGNED = frozenset({_TYPE.UINT8, _TYPE.UINT16, _TYPE.UINT32, _TYPE.UINT64})


class NoCounterpart(Exception):
    """ONNX computes something else than TensorFlow; the text is a clause that says for which use of the operator."""


class Replaced:
    """A node of TensorFlow that a handler replaces.

    Attributes:
        inputs: the names of its inputs.
        type: of its first input, as ONNX numbers it.
        operator: its name in TensorFlow.
    """

    def __init__(self, graph: Any, node: Any) -> None:
        self._graph = graph
        self._node = node
        self.operator: str = node.type
        self.inputs: list[str] = list(node.input)
        self.type: int = graph.get_dtype(node.input[0])

    def attribute(self, name: str, otherwise: Any = None) -> Any:
        """The value of one of the node's attributes."""
        return self._node.get_attr_value(name, otherwise)

    def type_of(self, tensor: str) -> int:
        """The type of a tensor, as ONNX numbers it."""
        found: int = self._graph.get_dtype(tensor)
        return found

    def shape(self, tensor: str) -> Sequence[int] | None:
        """The tensor's sizes, -1 where one is open; None where even their number is unknown."""
        found: Sequence[int] | None = self._graph.get_shape(tensor)
        return found

    def rank(self, tensor: str) -> int:
        """The number of the tensor's dimensions.

        Raises:
            NoCounterpart: it is unknown.
        """
        shape = self.shape(tensor)
        if shape is None:
            raise NoCounterpart("of a tensor whose number of dimensions is unknown")
        return len(shape)

    def made_by(self, tensor: str) -> str:
        """The operator that makes the tensor."""
        maker = self._graph.get_node_by_output(tensor)
        return "" if maker is None else str(maker.type)

    def value(self, tensor: str) -> np.ndarray[Any, Any] | None:
        """The tensor's value if it is a constant."""
        maker = self._graph.get_node_by_output(tensor)
        if maker is None or not maker.is_const():
            return None
        return np.asarray(maker.get_tensor_value(as_list=False))

    def make(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A new node of ONNX; the name of its output, or all of them where there are several."""
        node = self._graph.make_node(operator, list(inputs), attr=attributes, output_count=outputs)
        return node.output[0] if outputs == 1 else list(node.output)

    def constant(self, value: Any, kind: int | None = None) -> str:
        """A stored tensor of the type `kind`, that of the first input if it is left out."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.type if kind is None else kind)
        name: str = self._graph.make_const(tf2onnx.utils.make_name("constant"), np.asarray(value, dtype)).output[0]
        return name

    def cast(self, tensor: str, kind: int) -> str:
        """The tensor as another type."""
        return tensor if self.type_of(tensor) == kind else str(self.make("Cast", tensor, to=kind))

    def longs(self, *values: int) -> str:
        """A stored list of int64."""
        return self.constant(values, _TYPE.INT64)

    def unsqueezed(self, tensor: str, *axes: int) -> str:
        """The tensor with dimensions of size 1 at these places."""
        return str(self.make("Unsqueeze", tensor, self.longs(*axes)))

    def feed(self, position: int, tensor: str) -> None:
        """Give the node itself another input, before tf2onnx converts it."""
        self._graph.replace_input(self._node, self._node.input[position], tensor, position)
        self.inputs[position] = tensor

    def answer(self, *tensors: str) -> None:
        """End: the tensors take the place of the node's outputs."""
        node, graph = self._node, self._graph
        replaced = list(zip(tensors, node.output, node.output_shapes, node.output_dtypes, strict=True))
        graph.remove_node(node.name)
        for tensor, output, shape, dtype in replaced:
            graph.make_node("Identity", [tensor], outputs=[output], shapes=[shape], dtypes=[dtype])

    def convert(self) -> None:
        """End: the node is converted as tf2onnx does it."""
        function, arguments = tf2onnx.handler.tf_op.create_mapping(OPSET, None)[self.operator]
        if "onnx_op" in arguments:
            self._node.type = arguments["onnx_op"]
        function(self._graph, self._node, **arguments, tf_op=self.operator, initialized_tables={}, dequantize=False)


def as_converted(handler: Handler) -> tuple[Any, list[Any]]:
    """A handler in the form in which tf2onnx takes it."""

    def handle(graph: Any, node: Any, name: str, args: Any) -> None:
        del name, args
        replaced = Replaced(graph, node)
        try:
            handler(replaced)
        except NoCounterpart as error:
            raise NoCounterpart(f"{replaced.operator} {error}") from error

    return handle, []
