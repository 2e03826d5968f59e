"""Compares outputs with the baseline's, in numpy alone: errors, cosine, agreement, and what is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["NOTHING", "RELATIVE_FLOOR", "TIE", "Array", "Parity", "compare", "magnitude"]

Array = np.ndarray[Any, Any]

RELATIVE_FLOOR = 0.01
"""Of an output's magnitude: the smallest denominator of a relative error.

Without a floor one value near zero decides everything, and 0/0 is NaN, which passes every comparison with a limit.
"""

NOTHING = 1e-6
"""The magnitude of an output that is zero wherever it was seen, so that rounding in it is not an infinite error."""

TIE = 1e-5
"""Of an output's magnitude: two classes closer than this are a tie, and either may be the first."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How one output of one call differs from the baseline's.

    Attributes:
        mismatch: why nothing could be compared (another shape or kind of dtype); the other fields are None then.
        not_finite: elements that are NaN or infinite on one side only, or infinite with another sign.
        new_not_finite: those of them that are finite in the baseline.
        magnitude: the largest finite absolute value that the output is known to reach, at least NOTHING; what errors
            are seen in relation to.
        max_abs_error: largest |actual - expected| over what is finite on both sides.
        max_rel_error: largest |actual - expected| / max(|expected|, RELATIVE_FLOOR x magnitude).
        cosine: of both outputs as flat vectors, in [-1, 1]; 1.0 for two zero vectors, 0.0 if only one is zero.
        agreement: for floats of shape [rows, classes], with two or more classes, the share of rows whose largest class
            is a largest one of the baseline (ties count); for integers, booleans and texts the share of equal elements;
            else None. A row that is not finite agrees if it is equal.
        rows: how many rows or elements `agreement` is the share of.
    """

    mismatch: str | None = None
    not_finite: int = 0
    new_not_finite: int = 0
    magnitude: float = 0.0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    rows: int = 0


def magnitude(array: Array) -> float:
    """The largest finite absolute value in `array`; 0.0 where there is none."""
    if array.dtype.kind != "f" or array.size == 0:
        return 0.0
    finite = np.abs(array[np.isfinite(array)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def compare(expected: Array, actual: Array, *, scale: float = 0.0) -> Parity:
    """Compare one output of a variant with the baseline's.

    Args:
        expected: the baseline's output.
        actual: the variant's output; floats may be of another width (compared in float64).
        scale: a magnitude that the output is known to reach elsewhere, so that an output which happens to be all
            zero here is not judged by its own noise.
    """
    if expected.shape != actual.shape:
        return Parity(mismatch=f"shape {list(actual.shape)} instead of {list(expected.shape)}")
    if expected.dtype.kind != actual.dtype.kind:
        return Parity(mismatch=f"{actual.dtype} instead of {expected.dtype}")
    if expected.dtype.kind != "f":
        share = float(np.mean(expected == actual)) if expected.size else 1.0
        return Parity(agreement=share, rows=expected.size)
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    reach = max(scale, magnitude(expected), NOTHING)
    both = np.isfinite(wide) & np.isfinite(other)
    # Equal takes infinities of one sign; two NaNs are the same answer too.
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    odd = ~both & ~same
    reference, difference = wide[both], np.abs(wide[both] - other[both])
    ratio = difference / np.maximum(np.abs(reference), RELATIVE_FLOOR * reach)
    agreement, rows = _top1(wide, other, TIE * reach)
    return Parity(
        not_finite=int(odd.sum()),
        new_not_finite=int((odd & np.isfinite(wide)).sum()),
        magnitude=reach,
        max_abs_error=float(difference.max(initial=0.0)),
        max_rel_error=float(ratio.max(initial=0.0)),
        cosine=_cosine(reference, other[both]),
        agreement=agreement,
        rows=rows,
    )


def _cosine(expected: Array, actual: Array) -> float:
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
