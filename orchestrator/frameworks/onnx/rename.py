"""Gives the inputs and outputs of an ONNX model other names and another order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from orchestrator.frameworks.onnx.walk import graphs

__all__ = ["rename"]


def rename(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Rename inputs and outputs in place, and put them in the order of the mappings.

    Args:
        model: the ModelProto; an output that `outputs` does not name goes.
        inputs: new name → the model's own, all of them.
        outputs: new name → the model's own; two may be the same tensor.

    Raises:
        KeyError: the model has no such input or output.
    """
    graph = model.graph
    own_inputs = {value.name: value for value in graph.input}
    own_outputs = {value.name: value for value in graph.output}
    new_inputs = [_copy(own_inputs[own]) for own in inputs.values()]
    new_outputs = [_copy(own_outputs[own]) for own in outputs.values()]
    made = {name for node in graph.node for name in node.output}
    wanted = {own: name for name, own in inputs.items()}
    aside = []
    for name, own in outputs.items():
        # What comes straight from an input or from the file, or is an output already, gets its second name from a node.
        if own in made and own not in wanted:
            wanted[own] = name
        else:
            aside.append((name, own))
    names = _names(graph)
    new = {*inputs, *outputs}
    taken = {name: _free(name, names | new) for name in names & new if name not in wanted}
    _apply(graph, {**wanted, **taken})
    for name, own in aside:
        graph.node.append(
            onnx.helper.make_node("Identity", [{**wanted, **taken}.get(own, own)], [name], name=f"name_{name}")
        )
    _replace(graph.input, inputs, new_inputs)
    _replace(graph.output, outputs, new_outputs)


def _copy(value: Any) -> Any:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    return copied


def _replace(field: Any, names: Mapping[str, str], values: list[Any]) -> None:
    del field[:]
    for name, value in zip(names, values, strict=True):
        value.name = name
        field.append(value)


def _names(graph: Any) -> set[str]:
    """The names of all tensors, those of the graphs inside it too: they see the names of the outer graph."""
    found: set[str] = set()
    for each in graphs(graph):
        found.update(value.name for value in (*each.input, *each.output, *each.initializer))
        found.update(tensor.values.name for tensor in each.sparse_initializer)
        for node in each.node:
            found.update((*node.input, *node.output))
    return found - {""}


def _free(name: str, names: set[str]) -> str:
    number = 1
    while (candidate := f"{name}__{number}") in names:
        number += 1
    return candidate


def _apply(graph: Any, renamed: Mapping[str, str]) -> None:
    for each in graphs(graph):
        for value in (*each.input, *each.output, *each.initializer, *each.value_info):
            value.name = renamed.get(value.name, value.name)
        for tensor in each.sparse_initializer:
            tensor.values.name = renamed.get(tensor.values.name, tensor.values.name)
        for annotation in each.quantization_annotation:
            annotation.tensor_name = renamed.get(annotation.tensor_name, annotation.tensor_name)
            for parameter in annotation.quant_parameter_tensor_names:
                parameter.value = renamed.get(parameter.value, parameter.value)
        for node in each.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
