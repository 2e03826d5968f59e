"""Makes one graph with constants for its variables of a TensorFlow function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.library import tf  # isort: skip - it has to come first
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.python.eager.wrap_function import function_from_graph_def
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

from orchestrator.frameworks.tensorflow.saved_model_scan import Graphs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LARGEST_GRAPH", "nodes", "operators", "with_constants"]

LARGEST_GRAPH = 1900 * 2**20
"""The maximum size of weights as constants in a graph: a protobuf message is limited to 2 GiB."""

_OF_OPTIMIZER = "_Grappler"
"""Attributes of functions that TensorFlow's optimizer has specialized; a SavedModel with them does not load."""


def with_constants(concrete: Any) -> Any | None:
    """A function as one graph with constants for its variables; None where they have to stay variables.

    Raises:
        Exception: whatever TensorFlow raises.
    """
    weights = sum(variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables)
    if weights > LARGEST_GRAPH or not _only_reads_variables(concrete):
        return None
    # Loops and branches stay what they are; LiteRT and ONNX have both.
    frozen, definition = convert_variables_to_constants_v2_as_graph(concrete, lower_control_flow=False)
    marks = [
        (each, name) for each in definition.library.function for name in each.attr if name.startswith(_OF_OPTIMIZER)
    ]
    if not marks:
        return frozen
    for function, name in marks:
        del function.attr[name]
    _rename_functions(definition)  # TensorFlow knows others by these names
    inputs, outputs = ([tensor.name for tensor in side] for side in (frozen.inputs, frozen.outputs))
    return function_from_graph_def(definition, inputs, outputs)


def _rename_functions(definition: Any) -> None:
    names = {each.signature.name: f"{each.signature.name}_of_constants" for each in definition.library.function}
    for function in definition.library.function:
        function.signature.name = names[function.signature.name]
    bodies = (definition.node, *(function.node_def for function in definition.library.function))
    for node in (node for body in bodies for node in body):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in [value.func] if value.HasField("func") else value.list.func:
                called.name = names.get(called.name, called.name)


def _only_reads_variables(concrete: Any) -> bool:
    handles = {id(variable.handle) for variable in concrete.variables}
    captured = [outer for outer, _ in concrete.graph.captures if outer.dtype == tf.resource]
    return all(id(outer) in handles for outer in captured) and not any(
        name.startswith(("Assign", "ResourceScatter", "LookupTable")) for name in operators(concrete)
    )


def operators(concrete: Any) -> Iterator[str]:
    """The names of all operators that a function runs, as TensorFlow calls them."""
    yield from (node.op for node in nodes(concrete))


def nodes(concrete: Any) -> list[Any]:
    """Every node that a function runs, including those of the functions that it calls.

    Its graph may hold more functions: those of a loaded graph that read and write checkpoints.
    """
    definition = concrete.graph.as_graph_def()
    called = Graphs(MetaGraphDef(graph_def=definition)).live_functions()
    bodies = (function.node_def for function in definition.library.function if function.signature.name in called)
    return [*definition.node, *(node for body in bodies for node in body)]
