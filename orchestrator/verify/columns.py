"""Compares outputs column by column: what a large column, or an offset that all rows share, hides from the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from orchestrator.verify.parity import Array

__all__ = ["Columns", "compare_columns"]

WIDEST = 256
"""Columns at most; in wider outputs (vocabularies, pixels) a column is no quantity of its own."""

FEWEST_VALUES = 8
"""Values that a column must have: the direction of fewer says nothing."""

CONSTANT = 1e-3
"""A column whose values differ by less than this part of themselves is constant, and its noise is not judged."""

SMALL = 0.05
"""So is a column that differs by less than this: of the output's magnitude where that is below 1, else absolutely. It
keeps the rare classes of a softmax, whose values share the scale of the others, from being judged by their own."""

NOISE_ROOM = 100.0
"""How far a column's values must stand out from the noise of the arithmetic to be judged by their direction."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The worst columns of an output, each seen from the baseline's mean of that column.

    Attributes:
        judged: how many columns were compared.
        max_error: the largest absolute error (above the arithmetic's noise) as a part of the largest distance that the
            baseline has from its mean.
        error_column: whose it is.
        min_cosine: the smallest cosine of those distances.
        cosine_column: whose it is.
    """

    judged: int
    max_error: float
    error_column: int
    min_cosine: float
    cosine_column: int


def compare_columns(expected: Array, actual: Array, *, noise: float = 0.0) -> Columns | None:
    """Compare each index of the last axis by itself, over all rows and further axes.

    Args:
        expected: the baseline's output on the samples, rows in front. One axis alone is one column.
        actual: the variant's, of the same shape.
        noise: of the precision's arithmetic, as a part of the output's magnitude.

    Returns:
        The worst columns; None where there is nothing to judge: no floats, too many columns, all of them constant.
    """
    width = expected.shape[-1] if expected.ndim > 1 else 1
    if expected.dtype.kind != "f" or expected.shape != actual.shape or not 0 < width <= WIDEST:
        return None
    wide, other = (array.astype(np.float64).reshape(-1, width) for array in (expected, actual))
    both = np.isfinite(wide) & np.isfinite(other)
    if len(wide) < FEWEST_VALUES or not both.any():
        return None
    wide, other = np.where(both, wide, 0.0), np.where(both, other, 0.0)
    # Scaled first, since the squares of large values overflow.
    magnitude = float(np.abs(wide).max()) or 1.0
    middle = (wide / magnitude).sum(axis=0) / np.maximum(1, both.sum(axis=0))
    left, right = (np.where(both, array / magnitude - middle, 0.0) for array in (wide, other))
    spread = np.abs(left).max(axis=0)
    floor = np.maximum(CONSTANT * np.abs(wide).max(axis=0) / magnitude, SMALL * min(magnitude, 1.0) / magnitude)
    judged = (spread > np.maximum(floor, NOISE_ROOM * noise)) & (both.sum(axis=0) >= FEWEST_VALUES)
    if not judged.any():
        return None
    columns = np.flatnonzero(judged)
    errors = np.maximum(0.0, np.abs(left - right).max(axis=0) - noise)[columns] / spread[columns]
    cosines = _cosines(left[:, columns], right[:, columns])
    worst, least = int(errors.argmax()), int(cosines.argmin())
    return Columns(
        judged=len(columns),
        max_error=float(errors[worst]),
        error_column=int(columns[worst]),
        min_cosine=float(cosines[least]),
        cosine_column=int(columns[least]),
    )


def _cosines(left: Array, right: Array) -> Array:
    right = right / np.maximum(1.0, np.abs(right).max(axis=0))
    lengths = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    # No length at all on the variant's side: it says the mean, whatever the row, and has no direction.
    found = (left * right).sum(axis=0) / np.where(lengths > 0, lengths, 1.0)
    clipped: Array = np.clip(found, -1.0, 1.0)
    return clipped
