"""Joins the nodes of an attention into one operator of ONNX Runtime, `MultiHeadAttention`.

ONNX Runtime does that itself only for the graphs of a few exporters of its own time. It does join what surrounds attention
(`SkipLayerNormalization`, `BiasGelu`) when it loads a model, and so that is left to it. Found is

    softmax(q · k * scale + mask) · v

where q, k and v are split into heads by a Reshape and a Transpose, and the result is joined in the same way. Scale and mask may
be missing, and the scale may be that of q and k, but not of v. Shapes are not inferred but seen in one call; whoever fuses compares the
result with the model at the ends of every dimension.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from orchestrator.frameworks.onnx.graph import prune
from orchestrator.frameworks.onnx.runtime import session_options

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.source.samples import Array

__all__ = ["fuse_attention"]

_DOMAIN = "com.microsoft"
_HEADS_FIRST = (0, 2, 1, 3)
_TURNED = (0, 2, 3, 1)
"""The heads first, and the last two axes exchanged, as keys are for a product."""


def fuse_attention(model: Any, scratch: Path, call: Mapping[str, Array], *, large: bool) -> int:
    """Join the attentions of the main graph, in place.

    Args:
        model: the operator takes float32 alone, so that attentions in another type stay as they are.
        scratch: a folder for a copy that shows the shapes.
        call: the inputs of one call, in which no dimension has the size 1 if it can have another.
        large: whether the weights do not fit into one file.

    Returns:
        The number of attentions.
    """
    graph = _Graph(model)
    found = [each for node in model.graph.node if (each := graph.attention(node)) is not None]
    if not found:
        return 0
    # In the order of the operators, the first of which gets the nodes for a mask that others read too.
    places = {node.output[0]: number for number, node in enumerate(model.graph.node)}
    found.sort(key=lambda each: places[each.output])
    shapes = _shapes(model, sorted({name for each in found for name in each.seen}), scratch, call, large=large)
    made = {each.output: graph.joined(each, shapes) for each in found if each.fits(shapes)}
    nodes = [new for node in model.graph.node for new in made.get(node.output[0], [node])]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    prune(model.graph)  # the nodes of an attention that nothing else reads
    _describe(model.graph, made)
    if made and all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return len(made)


@dataclass(frozen=True, slots=True)
class _Attention:
    """One attention.

    Attributes:
        inputs: q, k and v before they are split into heads, [batch, length, heads * size].
        heads: q, k and v as they are multiplied, [batch, heads, length, size]; of k, the last two axes are exchanged.
        mask: what is added to the products: any shape that is broadcast to [batch, heads, length, length]; None without.
        output: [batch, length, heads * size].
        biases: of q, k and v, which the operator adds; none where not all three have one that is a stored vector.
    """

    inputs: tuple[str, ...]
    heads: tuple[str, ...]
    mask: str | None
    scale: float
    output: str
    biases: tuple[str, ...]

    @property
    def seen(self) -> tuple[str, ...]:
        """The tensors whose types and shapes decide whether it fits."""
        return (*self.inputs, *self.heads, self.output, *self.biases, *((self.mask,) if self.mask else ()))

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the shapes are those of the operator; `shapes` has those of tensors in float32."""
        if not all(name in shapes for name in self.seen):
            return False
        q, k, v = (shapes[name] for name in self.heads)
        if not len(q) == len(k) == len(v) == 4:
            return False
        (batch, heads, length, size), others, out = q, k[3], v[3]
        if (k, v) != ((batch, heads, size, others), (batch, heads, others, out)):
            return False
        wanted = [(batch, length, heads * size), (batch, others, heads * size), (batch, others, heads * out)]
        if [shapes[name] for name in self.inputs] != wanted or shapes[self.output] != (batch, length, heads * out):
            return False
        if self.biases and [shapes[name] for name in self.biases] != [each[2:] for each in wanted]:
            return False
        mask = () if self.mask is None else (1, 1, 1, 1, *shapes[self.mask])[-4:]
        return not mask or (
            len(shapes[self.mask or ""]) <= 4
            and mask[3] == others
            and all(given in {1, full} for given, full in zip(mask, q[:3], strict=False))
        )

    def mask_has_rows(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the mask has four axes and a row for each position of q; the operator repeats no rows."""
        mask = shapes[self.mask or ""]
        return len(mask) == 4 and mask[2] == shapes[self.heads[0]][2]


class _Graph:
    """Finds attentions in the main graph, and makes the nodes that replace them."""

    def __init__(self, model: Any) -> None:
        self._graph = graph = model.graph
        opset = max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
        # Up to opset 12, the axes from the given one on are one.
        self._softmax_axis = -1 if opset >= 13 else 1
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._users[name].append(node)
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._outputs = {value.name for value in graph.output}
        self._masks: dict[tuple[str, int], str] = {}

    def attention(self, softmax: Any) -> _Attention | None:
        """The attention around a Softmax; None where it is not one."""
        if softmax.op_type != "Softmax" or _attribute(softmax, "axis", self._softmax_axis) not in {-1, 3}:
            return None
        product = self._only_user(softmax, "MatMul")
        joined = self._only_user(product, "Transpose")
        output = self._only_user(joined, "Reshape")
        if output is None or product.input[0] != softmax.output[0] or _axes(joined) != _HEADS_FIRST:
            return None
        scores, scale, mask = self._masked(softmax.input[0])
        multiplied = self._made(scores, "MatMul")
        if multiplied is None:
            return None
        heads = (multiplied.input[0], multiplied.input[1], product.input[1])
        q, q_scale = self._split(heads[0], _HEADS_FIRST)
        k, k_scale = self._split(heads[1], _TURNED)
        v, v_scale = self._split(heads[2], _HEADS_FIRST)
        # The operator scales products of q and k; v it does not scale.
        if q is None or k is None or v is None or v_scale != 1.0:
            return None
        scale *= q_scale * k_scale
        before, biases = self._biases((q, k, v))
        return _Attention(before, heads, mask, scale, output.output[0], biases) if scale else None

    def joined(self, each: _Attention, shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
        """The operator for an attention, and what stretches its mask if that was not done for another one."""
        made: list[Any] = []
        mask = each.mask or ""
        if mask and not each.mask_has_rows(shapes):
            # The mask of a text may be that of its own attention and of another text's, which has another length.
            key = mask, shapes[each.heads[0]][2]
            if key not in self._masks:
                self._masks[key], made = self._stretched(mask, each)
            mask = self._masks[key]
        bias = f"{each.output}_biases" if each.biases else ""
        if bias:
            values = [numpy_helper.to_array(self._stored[name]) for name in each.biases]
            self._graph.initializer.append(numpy_helper.from_array(np.concatenate(values), bias))
        inputs = [*each.inputs, bias, "", mask]
        while not inputs[-1]:
            inputs.pop()
        attributes = {"num_heads": shapes[each.heads[0]][1], "scale": each.scale}
        name = f"{each.output}_attention"
        made.append(helper.make_node("MultiHeadAttention", inputs, [each.output], name, domain=_DOMAIN, **attributes))
        return made

    def _stretched(self, mask: str, each: _Attention) -> tuple[str, list[Any]]:
        """The mask with four axes and a row for each position of q, and the nodes that make it."""
        full = f"{each.output}/mask"
        shape, length, sizes, one, two = (f"{full}_{part}" for part in ("shape", "length", "sizes", "one", "two"))
        ones = (numpy_helper.from_array(np.ones(size, np.int64), name) for size, name in ((1, one), (2, two)))
        self._graph.initializer.extend(ones)
        return full, [
            helper.make_node("Shape", [each.inputs[0]], [shape], shape),
            helper.make_node("Gather", [shape, one], [length], length),
            helper.make_node("Concat", [two, length, one], [sizes], sizes, axis=0),
            helper.make_node("Expand", [mask, sizes], [full], full),
        ]

    def _masked(self, name: str) -> tuple[str, float, str | None]:
        """The product of q and k that is the Softmax's input, the number it is scaled by, and what is added to it."""
        added = self._made(name, "Add")
        for one, other in ((0, 1), (1, 0)) if added is not None else ():
            below, scale = self._scaled(added.input[one])
            if self._made(below, "MatMul") is not None:
                return below, scale, added.input[other]
        return *self._scaled(name), None

    def _split(self, name: str, axes: tuple[int, ...]) -> tuple[str | None, float]:
        """What was split into heads with its axes in this order, and the number it was multiplied by on the way."""
        scale = 1.0
        order: tuple[int, ...] = (0, 1, 2, 3)
        while True:
            name, more = self._scaled(name)
            scale *= more
            node = self._made_by.get(name)
            if node is None or node.op_type not in {"Transpose", "Reshape"}:
                return None, scale
            if node.op_type == "Transpose":
                turned = _axes(node)
            elif (flat := self._made(node.input[0], "Transpose")) is not None and _axes(flat) == (0, 2, 1):
                # PyTorch's exporter makes one axis of batch and heads to exchange the last two, and two of it again.
                node = self._made(flat.input[0], "Reshape")
                turned = (0, 1, 3, 2)
            else:
                break
            if node is None or len(turned) != len(order):
                return None, scale
            order = tuple(turned[axis] for axis in order)
            name = node.input[0]
        given, more = self._scaled(node.input[0])
        return (given if order == axes else None), scale * more

    def _biases(self, inputs: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """q, k and v without their biases, and the biases; as they are if one of them has none."""
        before, biases = [], []
        for name in inputs:
            node = self._made(name, "Add")
            for one, other in ((0, 1), (1, 0)) if node is not None else ():
                tensor = self._stored.get(node.input[other])
                if tensor is not None and len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT:
                    before.append(node.input[one])
                    biases.append(tensor.name)
                    break
        return (tuple(before), tuple(biases)) if len(biases) == len(inputs) else (tuple(inputs), ())

    def _scaled(self, name: str) -> tuple[str, float]:
        """The tensor before a product or quotient with a stored number, and the factor; the tensor itself and 1 without."""
        node = self._made_by.get(name)
        if node is None or node.op_type not in {"Mul", "Div"}:
            return name, 1.0
        if number := self._number(node.input[1]):
            return node.input[0], number if node.op_type == "Mul" else 1 / number
        if node.op_type == "Mul" and (number := self._number(node.input[0])):
            return node.input[1], number
        return name, 1.0

    def _number(self, name: str) -> float | None:
        tensor = self._stored.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def _only_user(self, node: Any, operator: str) -> Any:
        """The one node of an operator that reads a node's output; None if anything else does."""
        if node is None or node.output[0] in self._outputs:
            return None
        users = self._users[node.output[0]]
        return users[0] if len(users) == 1 and users[0].op_type == operator else None

    def _made(self, name: str, operator: str) -> Any:
        """The node that makes a tensor; None if it is not one of the operator."""
        node = self._made_by.get(name)
        return node if node is not None and node.op_type == operator else None


def _shapes(
    model: Any, names: Sequence[str], scratch: Path, call: Mapping[str, Array], *, large: bool
) -> dict[str, tuple[int, ...]]:
    """The shapes in one call of those of these tensors that are in float32."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in names}
    shapes = {name: tuple(tensor.dims) for name, tensor in stored.items() if tensor.data_type == onnx.TensorProto.FLOAT}
    computed = [name for name in names if name not in stored]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    path = scratch / "watched.onnx"
    onnx.save(watched, str(path), save_as_external_data=large, location=f"{path.name}.data")
    session = onnxruntime.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
    arrays = session.run(computed, dict(call))
    return shapes | {
        name: array.shape for name, array in zip(computed, arrays, strict=True) if array.dtype == np.float32
    }


def _describe(graph: Any, joined: Collection[str]) -> None:
    """Say of what type the operators' outputs are, since ONNX infers none, and nothing of tensors that are gone."""
    left = {name for node in graph.node for name in node.output} - set(joined)
    kept = [type(each).FromString(each.SerializeToString()) for each in graph.value_info if each.name in left]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    inner = set(joined) - {value.name for value in graph.output}
    graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None, None]) for name in sorted(inner)
    )


def _axes(transpose: Any) -> tuple[int, ...]:
    return tuple(_attribute(transpose, "perm", ()))


def _attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)
