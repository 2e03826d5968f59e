"""Finds the inputs of an ONNX graph that hold ids, and how many there are; and the numbers that inputs are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import IntegerRange

__all__ = ["ids_of_inputs", "numbers_compared"]

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
        elif node.op_type == "Equal":  # with 0, 1, 2, ...: JAX writes a one-hot encoding so
            for ids, numbers in (node.input, reversed(node.input)):
                if ids not in stored and (size := _counted(stored.get(numbers))) is not None:
                    yield Lookup(ids, size)


def _counted(tensor: Any) -> int | None:
    """How many integers the constant counts from 0; None if it holds anything else."""
    if tensor is None or tensor.external_data:
        return None
    array = onnx.numpy_helper.to_array(tensor).reshape(-1)
    return len(array) if len(array) > 1 and np.array_equal(array, np.arange(len(array))) else None


_SAME_NUMBER = frozenset({"Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
"""What these return is the number that they are given, where that is the only one."""


def numbers_compared(model: Any, inputs: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """The integers that the graph compares inputs with for equality, by the spec's names; ascending.

    Args:
        model: a ModelProto; the graphs inside its nodes are looked at too.
        inputs: the spec's name → the model's own, of inputs that hold one integer.
    """
    holds = {own: name for name, own in inputs.items()}
    constants: dict[str, Any] = {}
    found: dict[str, set[int]] = {}
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        constants.update((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:  # each comes after those that it depends on
            if node.op_type == "Constant":
                constants.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
            elif node.op_type in _SAME_NUMBER and node.input[0] in holds:
                holds[node.output[0]] = holds[node.input[0]]
            elif node.op_type == "Equal":
                for one, other in (node.input, reversed(node.input)):
                    number = _one_integer(constants.get(other))
                    if one in holds and number is not None:
                        found.setdefault(holds[one], set()).add(number)
            graphs += [each.g for each in node.attribute if each.HasField("g")]
    return {name: tuple(sorted(numbers)) for name, numbers in found.items()}


def _one_integer(tensor: Any) -> int | None:
    """The integer that a constant holds; None if it holds anything else."""
    if tensor is None or tensor.external_data:
        return None
    array = onnx.numpy_helper.to_array(tensor)
    return int(array.reshape(-1)[0]) if array.size == 1 and float(array.reshape(-1)[0]).is_integer() else None
