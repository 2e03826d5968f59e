"""Compares outputs with the baseline's: errors, cosine, agreement, and non-finite values."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.artifacts.baseline import Answers
from orchestrator.artifacts.verdict import OutputParity

__all__ = [
    "NOTHING",
    "RELATIVE_FLOOR",
    "TIE",
    "Array",
    "compare",
    "magnitude",
    "shape_mismatch",
    "together",
    "vector_cosine",
]

Array = np.ndarray[Any, Any]

RELATIVE_FLOOR = 0.01
"""The smallest denominator of a relative error, as a fraction of the output's magnitude.

Without it, a single value near zero would dominate, and 0/0 would be NaN, which passes every comparison with a limit.
"""

NOTHING = 1e-6
"""The magnitude of an output that is always zero, so that rounding is not an infinite error."""

TIE = 1e-5
"""Two classes closer than this fraction of the output's magnitude tie: either may be the top class."""


def magnitude(array: Answers) -> float:
    """The largest finite absolute value in an output; 0.0 where there is none."""
    if isinstance(array, tuple):
        return max(map(magnitude, array), default=0.0)
    if array.dtype.kind != "f" or array.size == 0:
        return 0.0
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def shape_mismatch(expected: Answers, actual: Answers) -> str | None:
    """The first sample of which two outputs have different shapes; None if there is none, or they are single arrays."""
    if not isinstance(expected, tuple) or not isinstance(actual, tuple):
        return None
    for row, (one, other) in enumerate(zip(expected, actual, strict=True)):
        if one.shape != other.shape:
            return f"shape {list(other.shape)} instead of {list(one.shape)} for sample {row}"
    return None


def together(answers: Answers) -> Array:
    """An output on all samples as one array: samples are stacked, or their rows joined if each has another number of them."""
    if not isinstance(answers, tuple):
        return answers
    if len({array.shape for array in answers}) == 1:
        return np.stack(answers)
    if all(array.ndim for array in answers) and len({array.shape[1:] for array in answers}) == 1:
        return np.concatenate(answers)
    return np.concatenate([array.reshape(-1) for array in answers])


def compare(expected: Array, actual: Array, *, scale: float = 0.0) -> OutputParity:
    """Compare one output of a variant with the baseline's.

    Args:
        expected: the baseline's output.
        actual: the variant's output; floats may have another width (compared in float64).
        scale: a magnitude that the output reaches in other calls, so that an output that happens to be all zero here is
            not judged by its own noise.
    """
    if expected.shape != actual.shape:
        return OutputParity(mismatch=f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.dtype.kind != actual.dtype.kind:
        return OutputParity(mismatch=f"{actual.dtype} instead of {expected.dtype}")
    if expected.dtype.kind != "f":
        share = float(np.mean(expected == actual)) if expected.size else 1.0
        return OutputParity(top1_agreement=share, rows=expected.size)
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    reach = max(scale, magnitude(expected), NOTHING)
    both = np.isfinite(wide) & np.isfinite(other)
    # Infinities of the same sign are equal, and so are two NaNs.
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    odd = ~both & ~same
    reference, difference = wide[both], np.abs(wide[both] - other[both])
    ratio = difference / np.maximum(np.abs(reference), RELATIVE_FLOOR * reach)
    agreement, rows = _top1(wide, other, TIE * reach)
    return OutputParity(
        not_finite=int(odd.sum()),
        new_not_finite=int((odd & np.isfinite(wide)).sum()),
        magnitude=reach,
        max_abs_error=float(difference.max(initial=0.0)),
        max_rel_error=float(ratio.max(initial=0.0)),
        cosine=vector_cosine(reference, other[both]),
        top1_agreement=agreement,
        rows=rows,
    )


def vector_cosine(expected: Array, actual: Array) -> float:
    """The cosine of two vectors of finite values; 1.0 for two zero vectors, 0.0 if only one is zero."""
    # Scaled first, since the squares of large values overflow.
    left, right = (vector / (np.abs(vector).max(initial=0.0) or 1.0) for vector in (expected, actual))
    lengths = float(np.linalg.norm(left)), float(np.linalg.norm(right))
    if 0.0 in lengths:
        return 1.0 if lengths == (0.0, 0.0) else 0.0
    return float(np.clip(np.dot(left, right) / (lengths[0] * lengths[1]), -1.0, 1.0))


def _top1(expected: Array, actual: Array, tie: float) -> tuple[float | None, int]:
    if expected.ndim != 2 or expected.shape[1] < 2 or not len(expected):
        return None, 0
    finite = np.isfinite(expected).all(axis=1) & np.isfinite(actual).all(axis=1)
    equal = ((expected == actual) | (np.isnan(expected) & np.isnan(actual))).all(axis=1)
    chosen = np.where(np.isfinite(actual), actual, -np.inf).argmax(axis=1)
    best = np.where(np.isfinite(expected), expected, -np.inf).max(axis=1)
    first = expected[np.arange(len(expected)), chosen] >= best - tie
    return float(np.mean(np.where(finite, first, equal))), len(expected)
