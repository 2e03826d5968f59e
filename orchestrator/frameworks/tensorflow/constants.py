"""Makes one graph with constants for its variables of a TensorFlow function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.library import tf  # isort: skip - it has to come first
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LARGEST_GRAPH", "operators", "with_constants"]

LARGEST_GRAPH = 1900 * 2**20
"""The maximum size of weights as constants in a graph: a protobuf message is limited to 2 GiB."""


def with_constants(concrete: Any) -> Any | None:
    """A function as one graph with constants for its variables; None where they have to stay variables.

    Raises:
        Exception: whatever TensorFlow raises.
    """
    weights = sum(variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables)
    if weights > LARGEST_GRAPH or not _only_reads_variables(concrete):
        return None
    # Loops and branches stay what they are; LiteRT and ONNX have both.
    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def _only_reads_variables(concrete: Any) -> bool:
    handles = {id(variable.handle) for variable in concrete.variables}
    captured = [outer for outer, _ in concrete.graph.captures if outer.dtype == tf.resource]
    return all(id(outer) in handles for outer in captured) and not any(
        name.startswith(("Assign", "ResourceScatter")) for name in operators(concrete)
    )


def operators(concrete: Any) -> Iterator[str]:
    """The names of all operators of a function, as TensorFlow calls them."""
    definition = concrete.graph.as_graph_def()
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        yield from (node.op for node in nodes)
