"""Handlers for tf2onnx where it computes other numbers than TensorFlow: division, shifts, comparison, choice, reduction.

TensorFlow divides integers downwards and ONNX towards zero; a choice between two tensors must not multiply the one that was
not taken, since 0 x NaN is NaN; comparing large integers as float32 loses their last digits; and so on. The reason stands in
each handler.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx

from orchestrator.frameworks.tensorflow.onnx_nodes import FLOATS, SIGNED, UNSIGNED, NoCounterpart, Replaced

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.tensorflow.onnx_nodes import Handler

__all__ = ["ARITHMETIC"]

_TYPE = onnx.TensorProto
_NARROW = frozenset({_TYPE.INT8, _TYPE.INT16, _TYPE.UINT8, _TYPE.UINT16})
"""Integers for which ONNX Runtime has few kernels, and which fit into an int32."""
_HALF_TURN = np.pi


def _wide(node: Replaced) -> tuple[list[str], int]:
    """The inputs and their type, narrow integers as int32."""
    kind = _TYPE.INT32 if node.type in _NARROW else node.type
    return [node.cast(name, kind) for name in node.inputs], kind


def _towards_zero(node: Replaced, x: str, y: str, kind: int) -> str:
    """The quotient of signed integers.

    The smallest integer divided by -1 does not exist; TensorFlow answers it again, while the processor stops the process.
    """
    value = node.value(y)
    if value is not None and (value != -1).all():
        return str(node.make("Div", x, y))
    negates = node.make("Equal", y, node.constant(-1, kind))
    divisor = node.make("Where", negates, node.constant(1, kind), y)
    return str(node.make("Where", negates, node.make("Neg", x), node.make("Div", x, divisor)))


def _divided(node: Replaced) -> None:
    """Div, TruncateDiv: towards zero, floats too in TruncateDiv."""
    if node.type in SIGNED:
        (x, y), kind = _wide(node)
        node.answer(node.cast(_towards_zero(node, x, y, kind), node.type))
    elif node.operator == "TruncateDiv" and node.type in FLOATS:
        quotient = node.make("Div", *node.inputs)
        below = node.make("Less", quotient, node.constant(0))
        node.answer(node.make("Where", below, node.make("Ceil", quotient), node.make("Floor", quotient)))
    else:
        node.answer(node.make("Div", *node.inputs))


def _remainder(node: Replaced, x: str, y: str, kind: int, quotient: str) -> tuple[str, str]:
    """What is left of a division towards zero, and whether its sign is not the divisor's."""
    left = node.make("Sub", x, node.make("Mul", quotient, y))
    return left, _of_another_sign(node, left, y, kind)


def _of_another_sign(node: Replaced, left: str, y: str, kind: int) -> str:
    zero = node.constant(0, kind)
    differs = node.make("Xor", node.make("Less", left, zero), node.make("Less", y, zero))
    return str(node.make("And", differs, node.make("Not", node.make("Equal", left, zero))))


def _floor_div(node: Replaced) -> None:
    """FloorDiv: downwards. ONNX divides integers towards zero."""
    if node.type not in SIGNED:
        quotient = node.make("Div", *node.inputs)
        node.answer(node.make("Floor", quotient) if node.type in FLOATS else quotient)
        return
    (x, y), kind = _wide(node)
    quotient = _towards_zero(node, x, y, kind)
    _, above = _remainder(node, x, y, kind, quotient)
    node.answer(node.cast(node.make("Sub", quotient, node.cast(above, kind)), node.type))


def _floor_mod(node: Replaced) -> None:
    """FloorMod: of the divisor's sign, and exact for large floats and infinite divisors."""
    if node.type in UNSIGNED:
        x, y = node.inputs
        node.answer(node.make("Sub", x, node.make("Mul", node.make("Div", x, y), y)))
        return
    (x, y), kind = _wide(node)
    if kind in FLOATS:
        left = node.make("Mod", x, y, fmod=1)
        other = _of_another_sign(node, left, y, kind)
    else:
        left, other = _remainder(node, x, y, kind, _towards_zero(node, x, y, kind))
    node.answer(node.cast(node.make("Where", other, node.make("Add", left, y), left), node.type))


def _truncate_mod(node: Replaced) -> None:
    """Mod, TruncateMod: of the dividend's sign. ONNX has an operator of the name Mod, whose sign is the divisor's."""
    (x, y), kind = _wide(node)
    if kind in FLOATS:
        node.answer(node.make("Mod", x, y, fmod=1))
        return
    quotient = _towards_zero(node, x, y, kind) if kind in SIGNED else node.make("Div", x, y)
    node.answer(node.cast(node.make("Sub", x, node.make("Mul", quotient, y)), node.type))


def _power(node: Replaced) -> None:
    """Pow: ONNX Runtime computes that of integers in double precision, which ends at 2^53 and does not wrap around."""
    if node.type in FLOATS:
        node.answer(node.make("Pow", *node.inputs))
        return
    exponent = node.value(node.inputs[1])
    if exponent is None or exponent.size != 1 or not 0 <= int(exponent.flat[0]) <= 64:
        raise NoCounterpart("of integers, with an exponent that is not one constant from 0 to 64")
    left = int(exponent.flat[0])
    square = node.inputs[0]
    power = node.make("Add", node.make("Mul", square, node.constant(0)), node.constant(1))
    while left:
        if left & 1:
            power = node.make("Mul", power, square)
        left >>= 1
        square = node.make("Mul", square, square) if left else square
    node.answer(power)


_BITS = {_TYPE.INT8: 8, _TYPE.UINT8: 8, _TYPE.INT16: 16, _TYPE.UINT16: 16, _TYPE.INT32: 32, _TYPE.UINT32: 32}


def _shift(node: Replaced) -> None:
    """LeftShift, RightShift: signed ones keep the sign, and TensorFlow takes numbers of bits outside of the type for its ends."""
    value, by = node.inputs
    last = _BITS.get(node.type, 64) - 1
    if node.type in SIGNED:
        by = node.make("Max", node.cast(by, _TYPE.INT64), node.longs(0))
    by = node.make("Min", node.cast(by, _TYPE.UINT64), node.constant(last, _TYPE.UINT64))
    one = node.constant(1, _TYPE.UINT64)
    if node.operator == "LeftShift" or node.type in UNSIGNED:
        direction = "LEFT" if node.operator == "LeftShift" else "RIGHT"
        shifted = node.make("BitShift", node.cast(value, _TYPE.UINT64), by, direction=direction)
    else:
        # Divided downwards by a power of two, in two halves: an int64 cannot hold the power of 63.
        half = node.make("BitShift", by, one, direction="RIGHT")
        shifted = node.cast(value, _TYPE.INT64)
        for bits in (half, node.make("Sub", by, half)):
            power = node.cast(node.make("BitShift", one, bits, direction="LEFT"), _TYPE.INT64)
            quotient = node.make("Div", shifted, power)
            left = node.make("Sub", shifted, node.make("Mul", quotient, power))
            shifted = node.make("Sub", quotient, node.cast(node.make("Less", left, node.longs(0)), _TYPE.INT64))
    node.answer(node.cast(shifted, node.type))


_COMPARISONS = {"Less": "Less", "Greater": "Greater", "LessEqual": "LessOrEqual", "GreaterEqual": "GreaterOrEqual"}


def _compared(node: Replaced) -> None:
    """Less, Greater and the like: tf2onnx compares integers as float32, which cannot tell 16777216 from 16777217."""
    inputs = node.inputs
    if node.type in SIGNED | UNSIGNED - {_TYPE.UINT64}:
        # Even if they are int64 already by what tf2onnx knows: the counter of a loop is, and was an int32.
        inputs = [node.make("Cast", name, to=_TYPE.INT64) for name in inputs]
    node.answer(node.make(_COMPARISONS[node.operator], *inputs))


def _equal(node: Replaced) -> None:
    """Equal, NotEqual: tf2onnx reads texts as numbers."""
    if node.type == _TYPE.STRING:
        raise NoCounterpart("of texts")
    node.convert()


_CHOSEN_AS = {
    _TYPE.BOOL: _TYPE.UINT8, _TYPE.INT8: _TYPE.INT32, _TYPE.INT16: _TYPE.INT32, _TYPE.UINT16: _TYPE.INT32,
    _TYPE.UINT32: _TYPE.INT64, _TYPE.UINT64: _TYPE.INT64, _TYPE.FLOAT16: _TYPE.FLOAT,
}  # fmt: skip
"""Types for which ONNX Runtime has no Where → the type in which it chooses instead."""


def _chosen(node: Replaced, condition: str, x: str, y: str, kind: int) -> str:
    via = _CHOSEN_AS.get(kind, kind)
    return node.cast(str(node.make("Where", condition, node.cast(x, via), node.cast(y, via))), kind)


def _select(node: Replaced) -> None:
    """Select, SelectV2: tf2onnx adds products with 0 and 1, and 0 x NaN and 0 x inf are NaN."""
    condition, x, y = node.inputs
    if node.operator == "Select" and node.rank(condition) == 1 and node.rank(x) > 1:
        condition = node.unsqueezed(condition, *range(1, node.rank(x)))
    node.answer(_chosen(node, condition, x, y, node.type_of(x)))


def _clip_by_value(node: Replaced) -> None:
    """ClipByValue: the lower bound wins where it is above the upper one, and bounds may be tensors."""
    value, low, high = node.inputs
    node.answer(node.make("Max", node.make("Min", value, high), low))


def _atan2(node: Replaced) -> None:
    """Atan2: with the signs of zeros, and of infinities."""
    y, x = node.inputs
    zero, one = node.constant(0), node.constant(1)

    def negative(value: str) -> str:
        below = node.make("Less", node.make("Div", one, value), zero)  # of a zero by its reciprocal
        return str(node.make("Or", node.make("Less", value, zero), below))

    def both(operator: str) -> str:
        tests = [node.make(operator, v) if operator == "IsInf" else node.make("Equal", v, zero) for v in (y, x)]
        return str(node.make("And", *tests))

    ratio = node.make("Div", y, x)
    ratio = node.make("Where", both("Equal"), y, ratio)
    ratio = node.make("Where", both("IsInf"), node.make("Mul", node.make("Sign", y), node.make("Sign", x)), ratio)
    # Left of the axis the angle is measured from the other side; 0 / -1 is -0, and the angle half a turn.
    turn = node.make("Where", negative(y), node.constant(-_HALF_TURN), node.constant(_HALF_TURN))
    angle = node.make("Atan", ratio)
    turned = node.make("Add", angle, turn)
    both_zero = node.make("Where", both("Equal"), turn, turned)
    node.answer(node.make("Where", negative(x), both_zero, angle))


def _reduced_axes(node: Replaced) -> list[int] | None:
    value = node.value(node.inputs[1])
    return None if value is None else [int(axis) for axis in value.reshape(-1)]


def _is_nan(node: Replaced, tensor: str) -> str:
    return str(node.make("IsNaN", tensor))


def _extreme(node: Replaced) -> None:
    """Max, Min: NaN if there is one. ONNX Runtime's answer depends on where it stands."""
    axes = _reduced_axes(node)
    if axes is None:
        node.convert()
        return
    operator = {"Max": "ReduceMax", "Min": "ReduceMin"}[node.operator]
    keep = int(bool(node.attribute("keep_dims", 0)))
    value, kind = node.inputs[0], node.type
    if not axes:
        node.answer(value)
        return
    via = _TYPE.INT32 if kind in {_TYPE.INT16, _TYPE.UINT16} else kind
    found = node.make(operator, node.cast(value, via), axes=axes, keepdims=keep)
    if kind in FLOATS:
        strange = node.cast(_is_nan(node, value), _TYPE.FLOAT)
        strange = node.make("ReduceMax", strange, axes=axes, keepdims=keep)
        strange = node.make("Greater", strange, node.constant(0, _TYPE.FLOAT))
        found = _chosen(node, strange, node.constant(np.nan), found, kind)
    node.answer(node.cast(found, kind))


def _sum(node: Replaced) -> None:
    """Sum: integers wrap around. ONNX Runtime stops at the largest int32, and adds int64 in double precision."""
    if node.type not in SIGNED | UNSIGNED:
        node.convert()
        return
    value, axes = node.cast(node.inputs[0], _TYPE.INT64), node.cast(node.inputs[1], _TYPE.INT64)
    axes = node.make("Reshape", axes, node.longs(-1))
    keep = int(bool(node.attribute("keep_dims", 0)))

    def total(part: str) -> str:
        return str(node.make("ReduceSum", part, axes, keepdims=keep, noop_with_empty_axes=1))

    if node.type not in {_TYPE.INT64, _TYPE.UINT64}:
        node.answer(node.cast(total(value), node.type))
        return
    half = node.constant(2**32, _TYPE.INT64)
    high = node.make("Div", value, half)
    low = node.make("Sub", value, node.make("Mul", high, half))
    node.answer(node.cast(node.make("Add", node.make("Mul", total(high), half), total(low)), node.type))


def _top(node: Replaced) -> None:
    """TopKV2: tf2onnx ranks integers as float32, which cannot tell 16777216 from 16777217."""
    if node.type in FLOATS:
        node.convert()
        return
    kind = _TYPE.INT32 if node.type in _NARROW else _TYPE.INT64
    count = node.make("Reshape", node.cast(node.inputs[1], _TYPE.INT64), node.longs(-1))
    values, places = node.make("TopK", node.cast(node.inputs[0], kind), count, outputs=2)
    node.answer(node.cast(values, node.type), node.cast(places, node.attribute("index_type", _TYPE.INT32)))


def _added(node: Replaced) -> None:
    """AddN: ONNX's Sum is of floats alone."""
    total = node.inputs[0]
    for each in node.inputs[1:]:
        total = node.make("Add", total, each)
    node.answer(total)


def _mean(node: Replaced) -> None:
    """Mean: of nothing it is NaN, and 0 in ONNX Runtime."""
    axes, shape = _reduced_axes(node), node.shape(node.inputs[0])
    if not axes or node.type not in FLOATS or shape is None or all(shape[axis] > 0 for axis in axes):
        node.convert()
        return
    keep = int(bool(node.attribute("keep_dims", 0)))
    total = node.make("ReduceSum", node.inputs[0], node.longs(*axes), keepdims=keep)
    sizes = node.make("Gather", node.make("Shape", node.inputs[0]), node.longs(*(axis % len(shape) for axis in axes)))
    count = node.make("ReduceProd", sizes, keepdims=0)
    node.answer(node.make("Div", total, node.cast(count, node.type)))


def _position(node: Replaced) -> None:
    """ArgMax, ArgMin: NaN is never the largest or smallest; ONNX Runtime has no kernel for booleans."""
    if node.type in FLOATS:
        lost = node.constant(-np.inf if node.operator == "ArgMax" else np.inf)
        value = node.inputs[0]
        node.feed(0, _chosen(node, _is_nan(node, value), lost, value, node.type))
    elif node.type in {_TYPE.BOOL, _TYPE.INT16, _TYPE.UINT16}:
        node.feed(0, node.cast(node.inputs[0], _TYPE.INT32))
    node.convert()


def _fake_quantized(node: Replaced) -> None:
    """FakeQuantWithMinMaxArgs, FakeQuantWithMinMaxVars: the range is moved so that zero is one of its steps."""
    if node.operator == "FakeQuantWithMinMaxArgs":
        ends = [np.float32(node.attribute("min", -6.0)), np.float32(node.attribute("max", 6.0))]
    else:
        found = [node.value(name) for name in node.inputs[1:]]
        if any(end is None for end in found):
            raise NoCounterpart("with a range that is not constant")
        ends = [np.float32(end) for end in found]
    low, high = ends
    first, last = (
        np.float32(bool(node.attribute("narrow_range", 0))),
        np.float32(2 ** node.attribute("num_bits", 8) - 1),
    )
    scale = np.float32((high - low) / (last - first))
    nudged = np.clip(np.floor(first - low / scale + np.float32(0.5)), first, last)
    least, most = np.float32((first - nudged) * scale), np.float32((last - nudged) * scale)
    clipped = node.make("Max", node.make("Min", node.inputs[0], node.constant(most)), node.constant(least))
    steps = node.make("Mul", node.make("Sub", clipped, node.constant(least)), node.constant(np.float32(1) / scale))
    steps = node.make("Floor", node.make("Add", steps, node.constant(0.5)))
    node.answer(node.make("Add", node.make("Mul", steps, node.constant(scale)), node.constant(least)))


def _erfc(node: Replaced) -> None:
    """Erfc: 1 - erf(x), which Keras' GELU is made of and tf2onnx does not know."""
    node.answer(node.make("Sub", node.constant(1), node.make("Erf", node.inputs[0])))


def _einsum(node: Replaced) -> None:
    """Einsum: tf2onnx takes a capital letter for the small one, which may be another dimension."""
    equation = node.attribute("equation").decode()
    letters = [letter for letter in dict.fromkeys(equation) if letter.isalpha()]
    if any(letter.isupper() and letter.lower() in letters for letter in letters):
        raise NoCounterpart("with the same letter, small and capital")
    node.convert()


def _refused(about: str, _: Replaced) -> None:
    raise NoCounterpart(about)


def _text_of_number(node: Replaced) -> None:
    """AsString: ONNX writes other digits of floats, and 1 for true."""
    plain = node.attribute("precision", -1) == -1 and node.attribute("width", -1) == -1
    if node.type not in SIGNED | UNSIGNED or not plain:
        raise NoCounterpart("of anything but plain integers")
    node.convert()


def _bicubic(node: Replaced) -> None:
    """ResizeBicubic: of two definitions in TensorFlow ONNX has that of half pixels."""
    if not node.attribute("half_pixel_centers", 0):
        raise NoCounterpart("without half_pixel_centers")
    node.convert()


def _non_max_suppression(node: Replaced) -> None:
    """NonMaxSuppressionV5: with soft_nms_sigma it lowers scores, and ONNX only drops boxes."""
    sigma = node.value(node.inputs[5])
    if sigma is None or float(sigma) != 0.0:
        raise NoCounterpart("with soft_nms_sigma")
    node.convert()


def _crop(node: Replaced) -> None:
    """CropAndResize: ONNX Runtime takes another nearest pixel."""
    if node.attribute("method", b"bilinear") != b"bilinear":
        raise NoCounterpart("with the method `nearest`")
    node.convert()


def _unique(node: Replaced) -> None:
    """Unique: in TensorFlow every NaN is a value of its own."""
    if node.type in FLOATS:
        raise NoCounterpart("of floats")
    node.convert()


ARITHMETIC: Mapping[str, Handler] = {
    "AddN": _added,
    "ArgMax": _position, "ArgMin": _position,
    "Atan2": _atan2,
    "ClipByValue": _clip_by_value,
    "Div": _divided, "TruncateDiv": _divided,
    "Einsum": _einsum,
    "Equal": _equal, "NotEqual": _equal,
    "Erfc": _erfc,
    "FakeQuantWithMinMaxArgs": _fake_quantized, "FakeQuantWithMinMaxVars": _fake_quantized,
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "LeftShift": _shift, "RightShift": _shift,
    "Max": _extreme, "Min": _extreme,
    "Mean": _mean,
    "Mod": _truncate_mod, "TruncateMod": _truncate_mod,
    "Pow": _power,
    "Select": _select, "SelectV2": _select,
    "Sum": _sum,
    "TopKV2": _top,
    **dict.fromkeys(_COMPARISONS, _compared),
    "AdjustSaturation": partial(_refused, "of colours: tf2onnx mixes up the channels"),
    "AsString": _text_of_number,
    "CropAndResize": _crop,
    "NonMaxSuppressionV5": _non_max_suppression,
    "ResizeArea": partial(_refused, "by area: tf2onnx takes the nearest pixel"),
    "ResizeBicubic": _bicubic,
    "StringLower": partial(_refused, "of texts: ONNX goes by the locale of the machine"),
    "StringUpper": partial(_refused, "of texts: ONNX goes by the locale of the machine"),
    "Unique": _unique, "UniqueWithCounts": _unique,
}  # fmt: skip
"""Operator of TensorFlow → what converts it, or refuses it by name."""
