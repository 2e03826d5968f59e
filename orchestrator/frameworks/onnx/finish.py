"""Finishes ONNX files from converters: canonical order and names, declared dimensions, no traces of this machine.

tf2onnx iterates over sets of objects, so that the order of its nodes, the numbers in its names, and which of two equal
tensors is computed and which is copied, differ between processes. After `canonical`, they only depend on the graph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypedDict

import onnx

from orchestrator.frameworks.onnx.graph import bodies, graphs
from orchestrator.steps.context import StepError, refuse_on

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["LARGEST_ONNX_FILE", "OnnxSize", "canonical", "finish"]


def canonical(model: Any) -> None:
    """Order nodes and stored tensors by a traversal from the outputs, and number them by kind, in place.

    Unreachable nodes are removed. The graph's inputs and outputs keep their names; all others get a `/`, which names in
    specs cannot contain.
    """
    graph = model.graph
    kept = {value.name: value.name for value in (*graph.input, *graph.output)}
    _arrange(graph, "", kept)
    imports = sorted(model.opset_import, key=lambda entry: entry.domain)
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in imports]
    del model.opset_import[:]
    model.opset_import.extend(copies)


def _arrange(graph: Any, prefix: str, outer: dict[str, str]) -> None:
    """Arrange one graph; `outer` maps old to new names of the outer graph's tensors."""
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
        _rename_tensors(node, names)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    _replace(graph.node, nodes)
    _replace(graph.initializer, [stored[name] for name in used])


def _copy_once(graph: Any) -> None:
    """Remove copies (Identity nodes); an output that equals an input or another output is copied from the first of these."""
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
    """Rename in the node and in its inner graphs, which can use names of the outer graph."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    for graph in _inner(node):
        for value in graph.output:
            value.name = renamed.get(value.name, value.name)
        for each in graph.node:
            _rename_seen(each, renamed)


def _in_order(outputs: list[str], producers: dict[str, Any]) -> Iterator[Any]:
    """The nodes that the outputs need, in topological order; without recursion, because graphs are deep."""
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
    """The tensors that the node and its inner graphs read from the outer graph, in the order of their outputs."""
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


def _rename_tensors(node: Any, names: dict[str, str]) -> None:
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
    # Copies, because the elements are deleted together with the repeated field.
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


LARGEST_ONNX_FILE = 1900 * 2**20
"""Weights with more bytes than this go into a separate file: a protobuf message is limited to 2 GiB."""


class OnnxSize(TypedDict):
    """The opset of a model, the number of nodes in its graph, and their operators, each once."""

    opset: int
    nodes: int
    operators: tuple[str, ...]


def finish(path: Path, signature: Signature, *, checked: bool = True) -> OnnxSize:
    """Strip, rename and check the model at `path` in place; weights in a second file are not touched.

    Node names, stack traces, documentation strings and the exporter's notes are removed, because they contain paths of this
    machine; dimensions get the spec's names; inputs and outputs are compared with the signature.

    Args:
        path: the file.
        signature: the declared inputs and outputs.
        checked: whether ONNX's own checker must accept it. It rejects some models that ONNX Runtime runs, and such sources
            are kept.

    Returns:
        The opset, the number of nodes and the operators.

    Raises:
        StepError: E424, the file is not valid ONNX, or its inputs or outputs are not the declared ones.
    """
    model = onnx.load(str(path), load_external_data=False)
    _strip(model)
    _rename_dims(model, signature)
    onnx.save(model, str(path))
    with refuse_on(
        onnx.checker.ValidationError,
        "E424",
        "the exporter wrote an invalid ONNX file",
    ):
        if checked:
            onnx.checker.check_model(str(path))
    _compare_tensors("input", [_declared(value) for value in model.graph.input], signature.inputs, signature)
    _compare_tensors("output", [_declared(value) for value in model.graph.output], signature.outputs, signature)
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    operators = tuple(sorted({node.op_type for node in model.graph.node}))
    return {"opset": opset, "nodes": len(model.graph.node), "operators": operators}


def _strip(model: Any) -> None:
    model.doc_string = ""
    del model.metadata_props[:]
    for body in bodies(model):
        _strip_all((body, *body.node, *body.value_info))
        for node in body.node:
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
    for graph in graphs(model.graph):
        _strip_all((*graph.initializer, *graph.input, *graph.output))


def _strip_all(parts: tuple[Any, ...]) -> None:
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _rename_dims(model: Any, signature: Signature) -> None:
    """Give the exporter's symbols (`s77`) the declared names, also inside expressions (`2*s77`)."""
    names: dict[str, str] = {}
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    for value in model.graph.input:
        declared = by_name.get(value.name)
        if declared is None or declared.shape is None:
            continue
        for dim, wanted in zip(value.type.tensor_type.shape.dim, declared.shape, strict=False):
            if dim.dim_param and isinstance(wanted, str):
                names[dim.dim_param] = wanted
    symbol = re.compile(r"[A-Za-z_]\w*")
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = symbol.sub(lambda found: names.get(found[0], found[0]), dim.dim_param)


def _declared(value: Any) -> tuple[str, list[int | str]]:
    dims = value.type.tensor_type.shape.dim
    return value.name, [dim.dim_param or dim.dim_value for dim in dims]


def _compare_tensors(
    role: str, found: list[tuple[str, list[int | str]]], declared: tuple[Tensor, ...], signature: Signature
) -> None:
    names = [name for name, _ in found]
    wanted = [tensor.name for tensor in declared]
    if names != wanted:
        raise StepError(
            "E424", f"the {role}s of the ONNX file are not the declared ones", cause=f"{names} instead of {wanted}"
        )
    for (name, shape), tensor in zip(found, declared, strict=True):
        for axis, dim in enumerate(tensor.shape or ()):
            if not isinstance(dim, str) or signature.dims[dim][0] == signature.dims[dim][1]:
                continue
            if axis >= len(shape) or isinstance(shape[axis], int):
                size = shape[axis] if axis < len(shape) else "absent"
                raise StepError(
                    "E424",
                    f"the conversion fixed dimension {dim} of {role} {name} at {size}",
                    remedy="read sizes from the tensor's shape in the model's code, or "
                    f"declare dimension {dim} as {size}: `dims: {{{dim}: {{min: {size}, max: {size}}}}}`",
                    at=("model", "dims", dim),
                )
