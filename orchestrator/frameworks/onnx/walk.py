"""Walks through an ONNX model: its graph, the graphs inside it, its functions, and all tensors that any of them holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["bodies", "graphs", "inner_graphs", "nodes", "tensors", "texts"]


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
    """Everything that holds nodes: the graph, the model's functions, and every graph inside them."""
    yield from graphs(model.graph)
    for function in model.functions:
        yield function
        for node in function.node:
            yield from inner_graphs(node)
        for attribute in function.attribute_proto:
            yield from _graphs_of(attribute)


def nodes(model: Any) -> Iterator[Any]:
    """Every node, wherever it stands."""
    for body in bodies(model):
        yield from body.node


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor that is stored in the model: initializers and attributes, those of sparse tensors too."""
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
    """Every name that is read of the model; protobuf gives bytes for what is not UTF-8."""
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
