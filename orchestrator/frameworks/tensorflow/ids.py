"""Finds the inputs of a TensorFlow model that hold ids, and how many there are."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids
from orchestrator.frameworks.tensorflow.constants import with_constants
from orchestrator.frameworks.tensorflow.library import tf

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import IntegerRange
    from orchestrator.frameworks.tensorflow.model import TfModel

__all__ = ["ids_of_inputs"]

_PASSES = frozenset({
    "Cast", "ConcatV2", "ExpandDims", "Identity", "Pack", "Reshape", "SelectV2", "Slice", "Squeeze", "StridedSlice", "Tile",
    "Transpose",
})  # fmt: skip


def ids_of_inputs(model: TfModel) -> dict[str, IntegerRange]:
    """The ids that inputs hold, by the spec's names; nothing where the graph cannot be laid open."""
    try:
        graph = with_constants(model.concrete)
    # TensorFlow raises errors of every kind; without this knowledge the model's answers show what it takes.
    except Exception:  # noqa: BLE001 - the log has it
        traceback.print_exc(file=sys.stderr)
        return {}
    if graph is None:
        return {}
    inputs = {t.op.name: tensor.name for t, tensor in zip(graph.inputs, model.signature.inputs, strict=True)}
    return shown_ids(_nodes(graph.graph.as_graph_def()), inputs)


def _nodes(definition: Any) -> Iterator[Passes | Lookup]:
    nodes = {node.name: node for node in definition.node}

    def constant(name: str) -> Any:
        node = nodes.get(_made_by(name))
        while node is not None and node.op == "Identity":
            node = nodes.get(_made_by(node.input[0]))
        return node.attr["value"].tensor if node is not None and node.op == "Const" else None

    for node in nodes.values():
        inputs = [_made_by(name) for name in node.input if not name.startswith("^")]
        if node.op in _PASSES:
            yield Passes(inputs, [node.name])
        elif node.op in {"Gather", "GatherV2"} and (table := constant(inputs[0])) is not None:
            sizes = [dim.size for dim in table.tensor_shape.dim]
            axis = constant(inputs[2]) if node.op == "GatherV2" else None
            where = 0 if axis is None else int(tf.make_ndarray(axis))
            if -len(sizes) <= where < len(sizes):
                yield Lookup(inputs[1], sizes[where])
        elif node.op == "OneHot" and (depth := constant(inputs[1])) is not None:
            yield Lookup(inputs[0], int(tf.make_ndarray(depth)))


def _made_by(tensor: str) -> str:
    """The node that makes a tensor: `table` of `table:0`."""
    return tensor.partition(":")[0]
