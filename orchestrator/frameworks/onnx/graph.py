"""Traverses ONNX graphs, renames their inputs and outputs, and prunes nodes that no output needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx

__all__ = ["bodies", "graphs", "inner_graphs", "nodes", "prune", "rename", "tensors", "texts"]


def graphs(graph: Any) -> Iterator[Any]:
    """The graph and every graph inside it (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        yield from inner_graphs(node)


def inner_graphs(node: Any) -> Iterator[Any]:
    """Every graph inside the node."""
    for attribute in node.attribute:
        yield from _graphs_of(attribute)


def bodies(model: Any) -> Iterator[Any]:
    """Everything that contains nodes: the graph, the model's functions, and all their inner graphs."""
    yield from graphs(model.graph)
    for function in model.functions:
        yield function
        for node in function.node:
            yield from inner_graphs(node)
        for attribute in function.attribute_proto:
            yield from _graphs_of(attribute)


def nodes(model: Any) -> Iterator[Any]:
    """Every node of the model, including functions and inner graphs."""
    for body in bodies(model):
        yield from body.node


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor that is stored in the model: initializers and attributes, including those of sparse tensors."""
    for body in bodies(model):
        yield from getattr(body, "initializer", ())
        for sparse in getattr(body, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in getattr(body, "attribute_proto", ()):
            yield from _tensors_of(attribute)
        for node in body.node:
            for attribute in node.attribute:
                yield from _tensors_of(attribute)


def texts(model: Any) -> Iterator[str | bytes]:
    """Every name in the model; names that are not UTF-8 are bytes."""
    for opset in model.opset_import:
        yield opset.domain
    for function in model.functions:
        yield from (function.domain, function.name)
    for body in bodies(model):
        for node in body.node:
            yield from (node.domain, node.op_type, *node.input, *node.output)
        for field in ("input", "output"):
            for value in getattr(body, field):
                yield value if isinstance(value, str | bytes) else value.name
                if not isinstance(value, str | bytes):
                    yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def _graphs_of(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("g"):
        yield from graphs(attribute.g)
    for inner in attribute.graphs:
        yield from graphs(inner)


def _tensors_of(attribute: Any) -> Iterator[Any]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for sparse in attribute.sparse_tensors:
        yield from (sparse.values, sparse.indices)


def rename(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Rename inputs and outputs in place, and put them in the order of the mappings.

    Args:
        model: the ModelProto; outputs that `outputs` does not list are removed.
        inputs: new name → the model's own, for all inputs.
        outputs: new name → the model's own; two of them may be the same tensor.

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
        # An output that is an input, a stored tensor or another output gets its second name from a node.
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
    _replace_values(graph.input, inputs, new_inputs)
    _replace_values(graph.output, outputs, new_outputs)


def _copy(value: Any) -> Any:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    return copied


def _replace_values(field: Any, names: Mapping[str, str], values: list[Any]) -> None:
    del field[:]
    for name, value in zip(names, values, strict=True):
        value.name = name
        field.append(value)


def _names(graph: Any) -> set[str]:
    """The names of all tensors, including those of inner graphs, which can use names of the outer graph."""
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


def prune(graph: Any) -> None:
    """Drop nodes and initializers that no output depends on, in place; inputs stay."""
    makers = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    needed = {value.name for value in graph.output}
    wanted: set[int] = set()
    left = list(needed)
    while left:
        maker = makers.get(left.pop())
        if maker is None or maker in wanted:
            continue
        wanted.add(maker)
        used = set(_names_read(graph.node[maker])) - needed
        needed |= used
        left += used
    kept = [node for number, node in enumerate(graph.node) if number in wanted]
    _keep_only(graph.node, kept)
    _keep_only(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _keep_only(
        graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed]
    )


def _names_read(node: Any) -> Iterator[str]:
    """The names that a node reads, and that its inner graphs read or return; some belong to the outer graph."""
    yield from node.input
    for inner in inner_graphs(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from each.input


def _keep_only(field: Any, kept: list[Any]) -> None:
    if len(kept) == len(field):
        return
    copies = [type(item)() for item in kept]
    for copied, item in zip(copies, kept, strict=True):
        copied.CopyFrom(item)
    del field[:]
    field.extend(copies)
