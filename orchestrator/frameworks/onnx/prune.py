"""Takes out of an ONNX graph what none of its outputs needs: nodes behind outputs that are not served, their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.frameworks.onnx.walk import inner_graphs

__all__ = ["prune"]


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
        used = set(_used(graph.node[maker])) - needed
        needed |= used
        left += used
    kept = [node for number, node in enumerate(graph.node) if number in wanted]
    _keep(graph.node, kept)
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    _keep(graph.sparse_initializer, [tensor for tensor in graph.sparse_initializer if tensor.values.name in needed])


def _used(node: Any) -> Iterator[str]:
    """The names that a node reads, and those that graphs inside it read or hand on: some of them are of the outer graph."""
    yield from node.input
    for inner in inner_graphs(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from each.input


def _keep(field: Any, kept: list[Any]) -> None:
    if len(kept) == len(field):
        return
    copies = [type(item)() for item in kept]
    for copied, item in zip(copies, kept, strict=True):
        copied.CopyFrom(item)
    del field[:]
    field.extend(copies)
