"""Operators of TensorFlow with inputs on which other definitions of them differ: signs, ends of ranges, NaN, ties, ids.

This module imports no TensorFlow; `run_operators.py` builds models of the table in a process that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.frameworks.source.samples import Array

__all__ = ["ANSWERED", "IN_LITERT", "REFUSED", "REFUSED_INPUTS", "Operator"]


@dataclass(frozen=True)
class Operator:
    """`build(tf, *tensors)` returns a tensor or a tuple of tensors."""

    build: Callable[..., Any]
    inputs: tuple[Array, ...]


def _of(build: Callable[..., Any], *inputs: Array) -> Operator:
    return Operator(build, inputs)


def _array(dtype: str, *values: Any) -> Array:
    return np.array(values, dtype)


_NAN, _INF = np.nan, np.inf
_FLOATS = _array("f4", _NAN, _INF, -_INF, 0, -0.0, 0.5, -0.5, 1.5, 2.5, -1.5, -2.5, 1e30, -1e30, 88.8, -104, 1e-10)
_INTS = _array("i4", -(2**31), 2**31 - 1, 0, 1, -1, 7, -7, 60, -61, 100000)
_DIVIDENDS = _array("i4", -9, -8, -7, -5, -1, 0, 1, 5, 7, 8, 9, 100)
_DIVISORS = _array("i4", -3, 3, 2, -2, 5, -5, 4, 7, -7, 3, -4, 9)
_LARGE = _array("i4", 16777217, 16777216, 2**31 - 1)
_LARGER = _array("i8", 2**53 + 1, 2**53, -5)
_WEIGHTS = np.arange(12, dtype="f4").reshape(4, 3)
_ROWS = np.array([[1, 2, 3, 3], [_NAN, 1, 2, 0], [1, _NAN, 0, 2], [0, 0, 0, 0], [-_INF, _INF, 1, 1]], "f4")
_SEGMENTED = np.arange(12, dtype="f4").reshape(6, 2) - 5
_IMAGE = np.random.default_rng(0).normal(size=(2, 7, 10, 4)).astype("f4")
_FIVE = np.arange(5, dtype="f4")


def _divisions() -> dict[str, Operator]:
    found: dict[str, Operator] = {}
    for dtype in ("i4", "i8", "i2", "i1", "f4"):
        x, y = _DIVIDENDS.astype(dtype), _DIVISORS.astype(dtype)
        found |= {
            f"floor division of {dtype}": _of(lambda tf, x, y: x // y, x, y),
            f"floor division by a constant of {dtype}": _of(lambda tf, x: x // 5, x),
            f"floor division by a negative constant of {dtype}": _of(lambda tf, x: x // -5, x),
            f"modulo of {dtype}": _of(lambda tf, x, y: x % y, x, y),
            f"modulo by a constant of {dtype}": _of(lambda tf, x: x % 5, x),
            f"truncating division of {dtype}": _of(lambda tf, x, y: tf.truncatediv(x, y), x, y),
        }
    x, y = (
        _array("f4", _INF, -_INF, _NAN, 1, -1, 5, -5, 5, 0, 7.5, -7.5),
        _array("f4", *[3] * 3, *[_INF] * 2, *[-_INF] * 2, 0, 0, -2, 2),
    )
    lowest = (_array("i4", 5, -(2**31)), _array("i4", 1, -1))
    unsigned = _array("u1", 0, 1, 7, 200, 255)
    return found | {
        "truncating modulo": _of(lambda tf, x, y: tf.truncatemod(x, y), _DIVIDENDS, _DIVISORS),
        "modulo with the dividend's sign": _of(lambda tf, x, y: tf.raw_ops.Mod(x=x, y=y), _DIVIDENDS, _DIVISORS),
        "modulo of floats with the dividend's sign": _of(lambda tf, x: tf.raw_ops.Mod(x=x, y=3.0), _array("f4", 5, -5)),
        "floor division of floats at the ends": _of(lambda tf, x, y: x // y, x, y),
        "modulo of floats at the ends": _of(lambda tf, x, y: x % y, x, y),
        "modulo of large floats": _of(lambda tf, x: x % 3.0, _array("f4", 1e8, 16777217, -1e8, -0.1)),
        "floor division of the lowest integer": _of(lambda tf, x, y: x // y, *lowest),
        "modulo of the lowest integer": _of(lambda tf, x, y: x % y, *lowest),
        "division of the lowest integer": _of(lambda tf, x, y: tf.raw_ops.Div(x=x, y=y), *lowest),
        "floor division of unsigned integers": _of(lambda tf, x: x // tf.constant(5, "uint8"), unsigned),
        "modulo of unsigned integers": _of(lambda tf, x: x % tf.constant(5, "uint8"), unsigned),
        "division without NaN": _of(lambda tf, x, y: tf.math.divide_no_nan(x, y), _FLOATS, _FLOATS[::-1].copy()),
        "a power of integers": _of(lambda tf, x: x**5, _array("i4", 100, -100, 10000, 3)),
        "a power of large integers": _of(lambda tf, x: x ** tf.constant(3, "int64"), _array("i8", 1000001, -(2**30))),
    }  # fmt: skip


def _clip(tf: Any, x: Any, low: Any, high: Any) -> Any:
    return tf.raw_ops.ClipByValue(t=x, clip_value_min=low, clip_value_max=high)


def _comparisons() -> dict[str, Operator]:
    found: dict[str, Operator] = {}
    for name in ("Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual"):
        for about, x in (("floats", _FLOATS), ("large int32", _LARGE), ("large int64", _LARGER)):
            found[f"{name} of {about}"] = _of(
                lambda tf, x, y, n=name: getattr(tf.raw_ops, n)(x=x, y=y), x, np.roll(x, 1)
            )
    for name in ("minimum", "maximum"):
        for about, x in (("floats", _FLOATS), ("int64", _LARGER), ("int32", _INTS)):
            found[f"{name} of {about}"] = _of(lambda tf, x, y, n=name: getattr(tf, n)(x, y), x, np.roll(x, 1))
    return found | {
        "clipping": _of(lambda tf, x: _clip(tf, x, -1.0, 1.0), _FLOATS),
        "clipping to an empty range": _of(lambda tf, x: _clip(tf, x, 2.0, 1.0), _FLOATS),
        "clipping to tensors": _of(_clip, _array("f4", -5, 0, 5), _array("f4", -1, 1, 2), _array("f4", 0, 2, 3)),
        # Without infinity, of which LiteRT's logarithm is 88.4 on some CPUs.
        "a choice where the other is NaN": _of(
            lambda tf, x: tf.where(x > 0, tf.math.log(x), -1.0), _FLOATS[np.isfinite(_FLOATS)]
        ),
        "a choice of what is finite": _of(lambda tf, x: tf.where(tf.math.is_finite(x), x, tf.zeros_like(x)), _FLOATS),
        "a choice of rows": _of(
            lambda tf, c, x: tf.raw_ops.Select(condition=c, x=x, y=-x), np.array([True, False, True, False]), _WEIGHTS
        ),
        "a choice of booleans": _of(lambda tf, x: tf.where(x > 0, x > 1, x < -1), _INTS),
        "a choice of int8": _of(lambda tf, x: tf.where(x > 0, x, tf.constant(3, "int8")), _array("i1", -128, 0, 127)),
        "a product with a condition": _of(lambda tf, x: x * tf.cast(x > 1.0, "float32"), _FLOATS),
    }


def _elementwise() -> dict[str, Operator]:
    angles = _array("f4", 0, -0.0, 0, -0.0, 1, -1, 1, -1, _INF, _INF, _NAN, 3), _array("f4", 1, 1, -1, -1, 0, 0, -1, -1, _INF, -_INF, 1, -1e-10)  # fmt: skip
    found = {
        name: _of(lambda tf, x, n=name: getattr(tf.math, n)(x), _FLOATS)
        for name in ("round", "floor", "ceil", "exp", "erf", "erfc", "tanh", "sigmoid", "softplus", "sign", "rsqrt")
    }
    found |= {
        name: _of(lambda tf, x, n=name: getattr(tf.nn, n)(x), _FLOATS)
        for name in ("relu", "relu6", "elu", "selu", "leaky_relu", "gelu", "silu", "softsign")
    }
    by = _array("i4", 3, 1, 30, 4, 1, 31, 32, 40, -1)
    shifted = _array("i4", 1, -1, 5, -5, 2**31 - 1, -1, 1, -1, -7)
    return found | {
        "the angle of two coordinates": _of(lambda tf, y, x: tf.atan2(y, x), *angles),
        "a left shift": _of(lambda tf, x, y: tf.bitwise.left_shift(x, y), shifted, by),
        "a right shift": _of(lambda tf, x, y: tf.bitwise.right_shift(x, y), shifted, by),
        "a right shift of int64": _of(
            lambda tf, x, y: tf.bitwise.right_shift(x, y), _array("i8", 8, -8, -(2**63)), _array("i8", 1, 62, 63)
        ),
        "a right shift of int8": _of(
            lambda tf, x: tf.bitwise.right_shift(x, tf.constant(2, "int8")), _array("i1", -128, -1, 127)
        ),
        "a left shift of uint8": _of(
            lambda tf, x: tf.bitwise.left_shift(x, tf.constant(9, "uint8")), _array("u1", 1, 200)
        ),
        "a cast to int8": _of(lambda tf, x: tf.cast(x, "int8"), _INTS),
        "a cast that saturates": _of(
            lambda tf, x: tf.saturate_cast(x, "uint8"), _array("f4", -5.5, 0.5, 254.5, 256, 1e9)
        ),
        "overflow of int32": _of(lambda tf, x: x * 3 + x, _INTS),
        "overflow of uint8": _of(lambda tf, x: x + x, _array("u1", 1, 127, 128, 255)),
        "a sum of several int32": _of(lambda tf, x: tf.add_n([x, x, x]), _INTS),
        "simulated quantization": _of(
            lambda tf, x: tf.quantization.fake_quant_with_min_max_args(x, -0.7, 1.9, 4, narrow_range=True), _FLOATS
        ),
        "simulated quantization of 8 bits": _of(
            lambda tf, x: tf.quantization.fake_quant_with_min_max_vars(x, -1.0, 1.0, 8), _FLOATS
        ),
    }


def _reductions() -> dict[str, Operator]:
    found: dict[str, Operator] = {}
    for name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"):
        reduce = lambda tf, x, n=name: getattr(tf, n)(x, axis=1)  # noqa: E731 - used twice
        found |= {
            f"{name} with NaN": _of(reduce, _ROWS),
            f"{name} of nothing": _of(lambda tf, x, n=name: getattr(tf, n)(tf.boolean_mask(x, x > 1e9)), _WEIGHTS),
            f"{name} of int32": _of(reduce, np.array([[7, -8, 3], [-5, -2, -2]], "i4")),
            f"{name} over no axes": _of(lambda tf, x, n=name: getattr(tf, n)(x, axis=[]), _ROWS),
        }
    for name in ("argmax", "argmin"):
        found |= {
            f"{name} with NaN": _of(lambda tf, x, n=name: getattr(tf, n)(x, axis=1), _ROWS),
            f"{name} of ties": _of(
                lambda tf, x, n=name: getattr(tf, n)(x, axis=1), np.array([[1, 3, 3], [2, 2, 2]], "f4")
            ),
            f"{name} of booleans": _of(
                lambda tf, x, n=name: getattr(tf, n)(x, axis=1), np.array([[False, True, True]])
            ),
        }
    large = np.array([[16777216, 16777217, 1], [2, 2, 1]], "i4")
    return found | {
        "a sum of int32 beyond its end": _of(lambda tf, x: tf.reduce_sum(x, 1), np.array([[2**31 - 1, 1, 1]], "i4")),
        "a sum of int64": _of(lambda tf, x: tf.reduce_sum(x, 1), np.array([[2**53 + 1, 0], [2**62, 2**62]], "i8")),
        "a sum of uint8": _of(lambda tf, x: tf.reduce_sum(x, 1), np.array([[200, 100, 3]], "u1")),
        "the largest two": _of(lambda tf, x: tuple(tf.math.top_k(x, 2)), np.array([[1, 3, 3, 1], [2, 2, 2, 2]], "f4")),
        "the largest two int32": _of(lambda tf, x: tuple(tf.math.top_k(x, 2)), large),
        "sorting int32": _of(lambda tf, x: tf.sort(x), np.array([[3, -(2**31), 2**31 - 1]], "i4")),
        "logsumexp": _of(lambda tf, x: tf.reduce_logsumexp(x, 1), np.array([[-_INF, -_INF], [_INF, 0], [1, 2]], "f4")),
        **{
            f"cumsum, exclusive={e}, reverse={r}": _of(
                lambda tf, x, e=e, r=r: tf.cumsum(x, axis=1, exclusive=e, reverse=r), _WEIGHTS
            )
            for e in (False, True) for r in (False, True)
        },
    }  # fmt: skip


_SCATTERED = ("update", "add", "sub", "min", "max")
_DUPLICATES = np.array([[0], [3], [0], [3]], "i4"), _array("f4", 1, 2, 5, -4)


def _indices() -> dict[str, Operator]:
    ids = _array("i4", 0, 3, -1, 4, 100, -4, -5)
    table = np.array([[0, -1, 3], [4, 2, 1]], "i4")
    found = {f"one-hot along axis {a}": _of(lambda tf, x, a=a: tf.one_hot(x, 4, axis=a), table) for a in (0, 1, -1)}
    for name in _SCATTERED:
        found[f"a scattered {name} with duplicates"] = _of(
            lambda tf, x, i, u, n=name: getattr(tf, f"tensor_scatter_nd_{n}")(x, i, u), _FIVE, *_DUPLICATES
        )
    for name in ("sum", "mean", "max", "min", "prod"):
        found[f"segment_{name} with a gap"] = _of(
            lambda tf, x, i, n=name: getattr(tf.math, f"segment_{n}")(x, i), _SEGMENTED, _array("i4", 0, 0, 1, 1, 3, 3)
        )
        found[f"unsorted_segment_{name}"] = _of(
            lambda tf, x, i, n=name: getattr(tf.math, f"unsorted_segment_{n}")(x, i, 4),
            _SEGMENTED,
            _array("i4", -1, 0, 1, 1, -5, 2),
        )
    return found | {
        "one-hot": _of(lambda tf, x: tf.one_hot(x, 4), ids),
        "one-hot of booleans": _of(lambda tf, x: tf.one_hot(x, 4, on_value=True, off_value=False, dtype="bool"), ids),
        "one-hot of integers": _of(lambda tf, x: tf.one_hot(x, 4, on_value=5, off_value=-2), ids),
        "gathered rows": _of(lambda tf, x: tf.gather(_WEIGHTS, x), _array("i4", 0, 3, 1)),
        "gathered columns": _of(lambda tf, x, i: tf.gather(x, i, axis=-1), _WEIGHTS, _array("i4", 0, 2)),
        "gathered in each row": _of(lambda tf, x, i: tf.gather(x, i, batch_dims=1), _WEIGHTS, np.array([[0], [1], [2], [0]], "i4")),
        "scattered sums": _of(lambda tf, i, u: tf.scatter_nd(i, u, [5]), *_DUPLICATES),
        "sparse_segment_mean with a gap": _of(
            lambda tf, x, j, i: tf.sparse.segment_mean(x, j, i), _SEGMENTED, _array("i4", 0, 5, 2), _array("i4", 0, 0, 2)
        ),
        "stitched with duplicates": _of(lambda tf, x: tf.dynamic_stitch([[0, 1, 2, 3], [1, 4, 5, 0]], [x, -x]), _WEIGHTS),
        "counts": _of(lambda tf, x: tf.math.bincount(x, minlength=5, maxlength=5), _array("i4", 0, 1, 1, 4, 7)),
        "distinct values": _of(lambda tf, x: tuple(tf.unique(x)), _array("i4", 3, 1, 3, 2, 1)),
        "a band of infinities": _of(lambda tf, x: tf.linalg.band_part(x, 0, -1), np.full((2, 3, 4), -_INF, "f4")),
        "a band": _of(lambda tf, x: tf.linalg.band_part(x, 1, 1), np.arange(24, dtype="f4").reshape(2, 3, 4)),
        "reversed sequences": _of(
            lambda tf, x, n: tf.reverse_sequence(x, n, seq_axis=1, batch_axis=0), _WEIGHTS, _array("i4", 1, 3, 2, 0)
        ),
        "a roll": _of(lambda tf, x: tf.roll(x, [-1, 5], [0, 1]), _WEIGHTS),
        "a slice beyond the end": _of(lambda tf, x: x[-100:100, ::-2], _WEIGHTS),
        "a division in a loop": _of(
            lambda tf, x: tf.while_loop(lambda i, a: i < 2, lambda i, a: (i + 1, a // 3), [0, x])[1], _DIVIDENDS
        ),
    }  # fmt: skip


def _images() -> dict[str, Operator]:
    found: dict[str, Operator] = {}
    for name in ("avg_pool2d", "max_pool2d"):
        found[f"{name} at the border"] = _of(lambda tf, x, n=name: getattr(tf.nn, n)(x, 3, 2, "SAME"), -np.abs(_IMAGE))
    for corners, half in ((True, False), (False, True), (False, False)):
        for name in ("ResizeBilinear", "ResizeNearestNeighbor"):
            found[f"{name}, corners={corners}, half={half}"] = _of(
                lambda tf, x, n=name, c=corners, h=half: getattr(tf.raw_ops, n)(
                    images=x, size=(5, 13), align_corners=c, half_pixel_centers=h
                ),
                _IMAGE,
            )
    return found | {
        "depth to space": _of(lambda tf, x: tf.nn.depth_to_space(x, 2), _IMAGE),
        "space to batch": _of(lambda tf, x: tf.space_to_batch(x, [2, 3], [[1, 0], [1, 1]]), _IMAGE),
        "local response normalization": _of(
            lambda tf, x: tf.nn.local_response_normalization(x, 1, 1.0, 0.5, 0.75), _IMAGE
        ),
    }


ANSWERED: dict[str, Operator] = _divisions() | _comparisons() | _elementwise() | _reductions() | _indices() | _images()
"""Operators that answer in ONNX as in TensorFlow."""


def _refused_inputs() -> dict[str, Operator]:
    zero = _array("i4", 5, 3), _array("i4", 1, 0)
    negative, beyond = np.array([[0], [-1]], "i4"), np.array([[0], [5]], "i4")
    found: dict[str, Operator] = {}
    for name in _SCATTERED:
        scatter = lambda tf, x, i, n=name: getattr(tf, f"tensor_scatter_nd_{n}")(x, i, [1.0, 2.0])  # noqa: E731 - used twice
        found |= {
            f"a scattered {name} at a negative place": _of(scatter, _FIVE, negative),
            f"a scattered {name} beyond the end": _of(scatter, _FIVE, beyond),
        }
    return found | {
        "floor division by zero": _of(lambda tf, x, y: x // y, *zero),
        "modulo by zero": _of(lambda tf, x, y: x % y, *zero),
        "an embedding of -1": _of(lambda tf, x: tf.nn.embedding_lookup(_WEIGHTS, x), _array("i4", 0, -1, 1)),
        "an embedding beyond the end": _of(lambda tf, x: tf.nn.embedding_lookup(_WEIGHTS, x), _array("i8", 0, 4)),
        "a gathered column -1": _of(lambda tf, x, i: tf.gather(x, i, axis=1), _WEIGHTS, _array("i4", 0, -1)),
        "a gathered place -1 in each row": _of(
            lambda tf, x, i: tf.gather(x, i, batch_dims=1), _WEIGHTS, np.array([[0], [-1], [2], [0]], "i4")
        ),
        "a gathered point -1": _of(lambda tf, x, i: tf.gather_nd(x, i), _WEIGHTS, np.array([[0, 2], [-1, 0]], "i4")),
        "scattered sums at a negative place": _of(lambda tf, i: tf.scatter_nd(i, [1.0, 2.0], [5]), negative),
        "segments that are not sorted": _of(
            lambda tf, x, i: tf.math.segment_sum(x, i), _SEGMENTED, _array("i4", 1, 0, 1, 1, 0, 2)
        ),
        "a negative segment": _of(lambda tf, x, i: tf.math.segment_max(x, i), _SEGMENTED, _array("i4", -1, 0, 1, 1, 2, 2)),
        "an unsorted segment beyond the end": _of(
            lambda tf, x, i: tf.math.unsorted_segment_sum(x, i, 4), _SEGMENTED, _array("i4", 1, 0, 4, 1, 0, 2)
        ),
        "a count of -1": _of(lambda tf, x: tf.math.bincount(x, minlength=5, maxlength=5), _array("i4", 0, -1)),
        "a partition that does not exist": _of(
            lambda tf, x, p: tuple(tf.dynamic_partition(x, p, 3)), _WEIGHTS, _array("i4", 2, 0, 3, -1)
        ),
    }  # fmt: skip


REFUSED_INPUTS: dict[str, Operator] = _refused_inputs()
"""Operators with inputs that TensorFlow refuses, and ONNX would answer by other rules."""

_TEXTS = np.array(["Ab", "é"])
REFUSED: dict[str, tuple[Operator, str]] = {
    "texts compared": (_of(lambda tf, x: tf.equal(x, "Ab"), _TEXTS), "Equal of texts"),
    "texts in small letters": (_of(lambda tf, x: tf.strings.lower(x), _TEXTS), "StringLower of texts"),
    "floats as texts": (_of(lambda tf, x: tf.strings.as_string(x), _FIVE), "AsString of anything but plain integers"),
    "distinct floats": (_of(lambda tf, x: tuple(tf.unique(x)), _FIVE), "Unique of floats"),
    "a power with an input": (_of(lambda tf, x: x**x, _INTS), "Pow of integers, with an exponent that is not one constant"),
    "two cases of a letter": (_of(lambda tf, x: tf.einsum("Ij,ij->Ii", x, x), _WEIGHTS), "Einsum with the same letter"),
    "resizing by area": (_of(lambda tf, x: tf.image.resize(x, (5, 13), method="area"), _IMAGE), "ResizeArea by area"),
    "the older bicubic": (
        _of(lambda tf, x: tf.raw_ops.ResizeBicubic(images=x, size=(14, 20)), _IMAGE),
        "ResizeBicubic without half_pixel_centers",
    ),
    "saturation": (_of(lambda tf, x: tf.image.adjust_saturation(x[..., :3], 2.0), _IMAGE), "AdjustSaturation of colours"),
    "scores that overlapping boxes lower": (
        _of(
            lambda tf, b, s: tuple(
                tf.image.non_max_suppression_with_scores(b, s, 3, 1.0, 0.0, soft_nms_sigma=0.5)
            ),
            np.array([[0, 0, 1, 1], [0, 0, 1, 0.9]], "f4"),
            _array("f4", 0.9, 0.8),
        ),
        "NonMaxSuppressionV5 with soft_nms_sigma",
    ),
    "an operator that ONNX does not have": (_of(lambda tf, x: tf.math.lgamma(x), _FIVE), "Lgamma"),
}  # fmt: skip
"""Operators that cannot be converted, and the words that say which."""

IN_LITERT: tuple[str, ...] = (
    "floor division of i4", "floor division by a constant of i4", "floor division of f4", "modulo of i4", "modulo by a constant of i4",
    "modulo of f4", "one-hot", "one-hot along axis 0", "gathered rows", "a choice where the other is NaN", "Less of large int32",
    "GreaterEqual of large int32", "a sum of int32 beyond its end", "the largest two", "round", "relu6", "argmax of ties",
    "scattered sums", "ResizeBilinear, corners=False, half=True",
)  # fmt: skip
"""Those of `ANSWERED` that LiteRT models are made of too."""
