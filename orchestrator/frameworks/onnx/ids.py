"""Finds the inputs of an ONNX graph that hold ids, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import onnx

from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import IntegerRange

__all__ = ["ids_of_inputs"]

_PASSES = frozenset({
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    "Where",
})  # fmt: skip


def ids_of_inputs(model: Any, inputs: Mapping[str, str]) -> dict[str, IntegerRange]:
    """The ids that inputs hold, by the spec's names.

    Args:
        model: a ModelProto; only its outermost graph is looked at.
        inputs: the spec's name → the model's own.
    """
    return shown_ids(_nodes(model.graph), {own: name for name, own in inputs.items()})


def _nodes(graph: Any) -> Iterator[Passes | Lookup]:
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    for node in graph.node:
        if node.op_type in _PASSES:
            yield Passes(node.input, node.output)
        elif node.op_type in {"Gather", "GatherElements"} and node.input[0] in stored:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            dims = stored[node.input[0]].dims
            if -len(dims) <= axis < len(dims):
                yield Lookup(node.input[1], int(dims[axis]))
        elif node.op_type == "OneHot" and (depth := stored.get(node.input[1])) is not None and not depth.external_data:
            yield Lookup(node.input[0], int(onnx.numpy_helper.to_array(depth).reshape(-1)[0]))
