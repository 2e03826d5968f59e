"""Orders and names what is inside an ONNX graph by the graph alone, so that the same model gives the same bytes.

tf2onnx goes through sets of objects: the order of its nodes, the numbers in its names, and which of two equal tensors is
computed and which is copied from it, are others in each process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import onnx

__all__ = ["canonical"]


def canonical(model: Any) -> None:
    """Put nodes and stored tensors in the order in which the outputs lead to them, and number them by kind, in place.

    What no output leads to goes. The graph's inputs and outputs keep their names; all others get a `/`, which no name of a
    spec has.
    """
    graph = model.graph
    kept = {value.name: value.name for value in (*graph.input, *graph.output)}
    _arrange(graph, "", kept)
    imports = sorted(model.opset_import, key=lambda entry: entry.domain)
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in imports]
    del model.opset_import[:]
    model.opset_import.extend(copies)


def _arrange(graph: Any, prefix: str, outer: dict[str, str]) -> None:
    """Arrange one graph; `outer` holds the new names of what it sees, by their old ones."""
    _copy_once(graph)
    names = dict(outer)
    producers = {name: node for node in graph.node for name in node.output if name}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(_in_order([value.name for value in graph.output], producers))
    numbers: Counter[str] = Counter()

    def numbered(kind: str) -> str:
        numbers[kind] += 1
        return f"{prefix}{kind}/{numbers[kind]}"

    used: list[str] = []
    for node in nodes:
        node.name = numbered(node.op_type)
        for name in _needed(node):
            if name in stored and name not in names:
                names[name] = numbered("constant")
                used.append(name)
        for position, name in enumerate(node.output):
            if name:
                names.setdefault(name, f"{node.name}:{position}")
    used += [value.name for value in graph.output if value.name in stored and value.name not in used]
    for name in used:
        stored[name].name = names.get(name, name)
    for node in nodes:
        _rename(node, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [stored[name] for name in used])


def _copy_once(graph: Any) -> None:
    """Take copies (Identity) out; only outputs that are equal to another, or to an input, are copied, from the first one."""
    roots: dict[str, str] = {}
    copies = [node for node in graph.node if node.op_type == "Identity" and not node.domain]
    sources = {node.output[0]: node.input[0] for node in copies}
    for name in sources:
        root = name
        while root in sources:
            root = sources[root]
        roots[name] = root
    others = [node for node in graph.node if node.op_type != "Identity" or node.domain]
    made = {name for node in others for name in node.output}
    first: dict[str, str] = {}
    added = []
    for value in graph.output:
        root = roots.get(value.name, value.name)
        if root in made and root not in first:
            first[root] = value.name
        elif value.name != first.get(root, root):
            added.append(onnx.helper.make_node("Identity", [first.get(root, root)], [value.name]))
    renamed = first | {name: first.get(root, root) for name, root in roots.items()}
    for node in others:
        _rename_seen(node, renamed)
    _replace(graph.node, [*others, *added])


def _rename_seen(node: Any, renamed: dict[str, str]) -> None:
    """Rename in the node, and in the graphs inside it, which see the names of the graph around them."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    for graph in _inner(node):
        for value in graph.output:
            value.name = renamed.get(value.name, value.name)
        for each in graph.node:
            _rename_seen(each, renamed)


def _in_order(outputs: list[str], producers: dict[str, Any]) -> Iterator[Any]:
    """The nodes that the outputs need, each after those that it needs itself; without recursion, since graphs are deep."""
    done: set[int] = set()
    stack = [(producers[name], False) for name in reversed(outputs) if name in producers]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            yield node
            continue
        stack.append((node, True))
        stack += [(producers[name], False) for name in reversed(list(_needed(node))) if name in producers]


def _needed(node: Any) -> Iterator[str]:
    """What the node takes, and what the graphs inside it take from around them, in the order of their own outputs."""
    yield from (name for name in node.input if name)
    for graph in _inner(node):
        inside = {name for each in graph.node for name in each.output}
        inside |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        producers = {name: each for each in graph.node for name in each.output if name}
        taken = [
            name for each in _in_order([value.name for value in graph.output], producers) for name in _needed(each)
        ]
        yield from (name for name in (*taken, *(value.name for value in graph.output)) if name not in inside)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in sorted(node.attribute, key=lambda each: each.name):
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _rename(node: Any, names: dict[str, str]) -> None:
    attributes = sorted(node.attribute, key=lambda each: each.name)
    _replace(node.attribute, attributes)
    for number, graph in enumerate(_inner(node)):
        prefix = f"{node.name}.{number}/"
        inside = {value.name: f"{prefix}input/{position}" for position, value in enumerate(graph.input)}
        for value in graph.input:
            value.name = inside[value.name]
        _arrange(graph, prefix, {**names, **inside})
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]


def _replace(field: Any, values: list[Any]) -> None:
    # Copies, since what a repeated field holds goes with it.
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
