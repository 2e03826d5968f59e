"""Handlers for tf2onnx about indices: TensorFlow refuses those out of range, where ONNX counts negative ones from the end.

A request that TensorFlow refuses is refused by the ONNX file too: an index that TensorFlow would not take becomes one that
no tensor has, and ONNX Runtime refuses that.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx

from orchestrator.frameworks.tensorflow.onnx_nodes import FLOATS, Replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.tensorflow.onnx_nodes import Handler

__all__ = ["INDICES"]

_TYPE = onnx.TensorProto
_NOWHERE = 2**31 - 1
"""An index that no tensor has."""

_NEVER_NEGATIVE = frozenset({"ArgMax", "ArgMin", "NonZero", "Range", "Shape", "Size", "TopK", "Where"})
"""Operators whose results are valid positions or sizes."""


def _checked(node: Replaced, indices: str) -> str:
    """The indices, with one that no tensor has for each that is negative."""
    value = node.value(indices)
    if (value is not None and (value >= 0).all()) or node.made_by(indices) in _NEVER_NEGATIVE:
        return indices
    kind = node.type_of(indices)
    if kind not in {_TYPE.INT32, _TYPE.INT64}:
        indices, kind = node.cast(indices, _TYPE.INT32), _TYPE.INT32
    below = node.make("Less", indices, node.constant(0, kind))
    return str(node.make("Where", below, node.constant(_NOWHERE, kind), indices))


def _indexed(position: int, node: Replaced) -> None:
    """Gather and scatter: converted by tf2onnx, with checked indices."""
    node.feed(position, _checked(node, node.inputs[position]))
    node.convert()


def _required(node: Replaced, holds: str, tensor: str) -> str:
    """The tensor; a call in which not everything in `holds` is true is refused."""
    wrong = node.make("ReduceMax", node.cast(node.make("Not", holds), _TYPE.INT32), keepdims=0)
    # A list with the tensor alone in it has a first entry and no second one.
    return str(node.make("Gather", node.unsqueezed(tensor, 0), wrong, axis=0))


def _below(node: Replaced, indices: str, size: str) -> str:
    """Whether the int64 indices are positions among `size`."""
    inside = node.make("Less", indices, size)
    return str(node.make("And", inside, node.make("Not", node.make("Less", indices, node.constant(0, _TYPE.INT64)))))


def _one_hot(node: Replaced) -> None:
    """OneHot: an index out of range sets nothing, while ONNX counts negative ones from the end."""
    indices, depth, on, off = node.inputs
    rank, kind = node.rank(indices), node.type_of(on)
    axis = node.attribute("axis", -1)
    axis = rank if axis < 0 else axis
    longs = node.cast(indices, _TYPE.INT64)
    depth = node.make("Reshape", node.cast(depth, _TYPE.INT64), node.constant(np.zeros(0), _TYPE.INT64))
    positions = node.make("Range", node.constant(0, _TYPE.INT64), depth, node.constant(1, _TYPE.INT64))
    if axis < rank:
        positions = node.unsqueezed(positions, *range(1, rank - axis + 1))
    hot = node.make("Equal", node.unsqueezed(longs, axis), positions)
    via = kind if kind in {_TYPE.FLOAT, _TYPE.DOUBLE, _TYPE.INT32, _TYPE.INT64, _TYPE.STRING} else _TYPE.INT32
    if kind in FLOATS - {via}:
        via = _TYPE.FLOAT
    node.answer(node.cast(str(node.make("Where", hot, node.cast(on, via), node.cast(off, via))), kind))


def _scattered(node: Replaced) -> None:
    """ScatterNd: adds what goes to the same place, while ONNX keeps one of the values."""
    indices, updates, shape = node.inputs
    indices = node.cast(_checked(node, indices), _TYPE.INT64)
    zero = onnx.helper.make_tensor("value", node.type_of(updates), [1], [0])
    empty = node.make("ConstantOfShape", node.cast(shape, _TYPE.INT64), value=zero)
    node.answer(node.make("ScatterND", empty, indices, updates, reduction="add"))


def _segments(node: Replaced) -> None:
    """Every kind of segment: reduced by scattering, in the places and with the answers for empty segments of TensorFlow."""
    name = node.operator.removesuffix("WithNumSegments")
    unsorted, sparse = name.startswith("Unsorted"), name.startswith("Sparse")
    how = name.removeprefix("Unsorted").removeprefix("Sparse").removeprefix("Segment")
    inputs = list(node.inputs)
    data = inputs.pop(0)
    if sparse:
        data = node.make("Gather", data, _checked(node, inputs.pop(0)), axis=0)
    ids = node.cast(inputs.pop(0), _TYPE.INT64)
    rank = node.rank(ids)
    scalar = node.constant(np.zeros(0), _TYPE.INT64)
    if inputs:
        count = node.make("Reshape", node.cast(inputs.pop(0), _TYPE.INT64), scalar)
    else:
        # None of them leave one segment fewer than the first.
        padded = node.make("Concat", ids, node.longs(-1), axis=0)
        count = node.make("Add", node.make("ReduceMax", padded, keepdims=0), node.constant(1, _TYPE.INT64))
    if not unsorted:
        previous = node.make("Slice", node.make("Concat", node.longs(0), ids, axis=0), node.longs(0), node.longs(-1))
        ids = _required(node, node.make("Not", node.make("Less", ids, previous)), ids)
    # One segment more, for ids that count for nothing; beyond that lie those that are refused.
    dropped = node.make("Less", ids, node.constant(0, _TYPE.INT64))
    beyond = node.make("Where", node.make("Less", ids, count), ids, node.constant(_NOWHERE, _TYPE.INT64))
    places = node.unsqueezed(node.make("Where", dropped, count, beyond), rank)
    rows = node.make("Reshape", node.make("Add", count, node.constant(1, _TYPE.INT64)), node.longs(1))
    inner = node.make("Slice", node.make("Shape", data), node.longs(rank), node.longs(_NOWHERE))
    shape = node.make("Concat", rows, inner, axis=0)

    def gathered(start: float, values: str, reduction: str) -> str:
        full = node.make("Expand", node.constant(start), shape)
        found = node.make("ScatterND", full, places, values, reduction=reduction)
        return str(node.make("Slice", found, node.longs(0), node.longs(-1), node.longs(0)))

    found = gathered(_STARTS[how](node), data, _REDUCTIONS[how])
    if how in {"Mean", "SqrtN"} or (how in {"Max", "Min"} and not unsorted):
        ones = node.make("Expand", node.constant(1), node.make("Shape", data))
        members = gathered(0, ones, "add")
        if how in {"Max", "Min"}:
            empty = node.make("Equal", members, node.constant(0))
            found = node.make("Where", empty, node.constant(0), found)
        else:
            least = node.make("Max", members, node.constant(1))
            found = node.make("Div", found, node.make("Sqrt", least) if how == "SqrtN" else least)
    node.answer(found)


def _end(side: int, node: Replaced) -> float:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(node.type)
    limits = np.finfo(dtype) if node.type in FLOATS else np.iinfo(dtype)
    return float(limits.max if side > 0 else limits.min)


def _number(value: float, node: Replaced) -> float:
    del node
    return value


_REDUCTIONS = {"Sum": "add", "Mean": "add", "SqrtN": "add", "Prod": "mul", "Max": "max", "Min": "min"}
_STARTS = {
    "Sum": partial(_number, 0), "Mean": partial(_number, 0), "SqrtN": partial(_number, 0), "Prod": partial(_number, 1),
    "Max": partial(_end, -1), "Min": partial(_end, 1),
}  # fmt: skip


def _counted(node: Replaced) -> None:
    """Bincount, DenseBincount: refuse negative values."""
    values = node.inputs[0]
    kind = node.type_of(values)
    node.feed(0, _required(node, node.make("Not", node.make("Less", values, node.constant(0, kind))), values))
    node.convert()


def _labelled(node: Replaced) -> None:
    """SparseSoftmaxCrossEntropyWithLogits: refuses labels that are no class."""
    logits, labels = node.inputs
    longs = node.cast(labels, _TYPE.INT64)
    classes = node.make("Gather", node.make("Shape", logits), node.constant(-1, _TYPE.INT64))
    node.feed(1, node.cast(_required(node, _below(node, longs, classes), longs), node.type_of(labels)))
    node.convert()


def _partitioned(node: Replaced) -> None:
    """DynamicPartition: refuses partitions that do not exist."""
    partitions = node.inputs[1]
    longs = node.cast(partitions, _TYPE.INT64)
    count = node.constant(node.attribute("num_partitions"), _TYPE.INT64)
    node.feed(1, node.cast(_required(node, _below(node, longs, count), longs), node.type_of(partitions)))
    node.convert()


def _stitched(node: Replaced) -> None:
    """DynamicStitch: the last of several values for one place counts."""
    half = len(node.inputs) // 2
    indices, data = node.inputs[:half], node.inputs[half:]
    ranks = [node.rank(each) for each in indices]
    inner = node.make("Slice", node.make("Shape", data[0]), node.longs(ranks[0]), node.longs(_NOWHERE))
    flat_shape = node.make("Concat", node.longs(-1), inner, axis=0)
    where = [node.cast(node.make("Reshape", _checked(node, each), node.longs(-1)), _TYPE.INT64) for each in indices]
    places = node.make("Concat", *where, axis=0)
    values = node.make("Concat", *[node.make("Reshape", each, flat_shape) for each in data], axis=0)
    rows = node.make("Add", node.make("ReduceMax", places, keepdims=1), node.longs(1))
    zero = onnx.helper.make_tensor("value", node.type_of(data[0]), [1], [0])
    empty = node.make("ConstantOfShape", node.make("Concat", rows, inner, axis=0), value=zero)
    node.answer(node.make("ScatterND", empty, node.unsqueezed(places, 1), values))


def _band(node: Replaced) -> None:
    """MatrixBandPart: sets what is outside of the band to zero, whatever it was; tf2onnx multiplies it with zero."""
    matrix, lower, upper = node.inputs
    rank = node.rank(matrix)
    shape = node.make("Shape", matrix)
    zero, one, scalar = (node.constant(value, _TYPE.INT64) for value in (0, 1, np.zeros(0)))

    def size(axis: int) -> str:
        return str(node.make("Gather", shape, node.constant(axis, _TYPE.INT64)))

    row = node.unsqueezed(node.make("Range", zero, size(rank - 2), one), 1)
    column = node.unsqueezed(node.make("Range", zero, size(rank - 1), one), 0)
    inside = node.constant(1, _TYPE.BOOL)
    for limit, distance in ((lower, node.make("Sub", row, column)), (upper, node.make("Sub", column, row))):
        limit = node.make("Reshape", node.cast(limit, _TYPE.INT64), scalar)  # noqa: PLW2901 - as a scalar
        near = node.make("Not", node.make("Less", limit, distance))
        near = node.make("Or", near, node.make("Less", limit, zero))
        inside = node.make("And", inside, near)
    kind = node.type
    via = kind if kind in {_TYPE.FLOAT, _TYPE.DOUBLE, _TYPE.INT32, _TYPE.INT64} else _TYPE.INT32
    if kind == _TYPE.FLOAT16:
        via = _TYPE.FLOAT
    kept = node.make("Where", inside, node.cast(matrix, via), node.constant(0, via))
    node.answer(node.cast(kept, kind))


_SEGMENTS = (
    "SegmentSum", "SegmentProd", "SegmentMax", "SegmentMin", "SegmentMean", "SparseSegmentSum", "SparseSegmentMean",
    "SparseSegmentSqrtN", "SparseSegmentSumWithNumSegments", "SparseSegmentMeanWithNumSegments",
    "SparseSegmentSqrtNWithNumSegments", "UnsortedSegmentSum", "UnsortedSegmentProd", "UnsortedSegmentMax",
    "UnsortedSegmentMin",
)  # fmt: skip
_SCATTERED_INTO = (
    "TensorScatterAdd",
    "TensorScatterMax",
    "TensorScatterMin",
    "TensorScatterSub",
    "TensorScatterUpdate",
)

INDICES: Mapping[str, Handler] = {
    "Bincount": _counted, "DenseBincount": _counted,
    "DynamicPartition": _partitioned,
    "DynamicStitch": _stitched, "ParallelDynamicStitch": _stitched,
    "MatrixBandPart": _band,
    "OneHot": _one_hot,
    "ScatterNd": _scattered,
    "SparseSoftmaxCrossEntropyWithLogits": _labelled,
    **dict.fromkeys(("Gather", "GatherNd", "GatherV2", *_SCATTERED_INTO), partial(_indexed, 1)),
    **dict.fromkeys(_SEGMENTS, _segments),
}  # fmt: skip
"""Operator of TensorFlow → what converts it."""
