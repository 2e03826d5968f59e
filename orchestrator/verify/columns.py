"""Compares outputs column by column, to find errors that are hidden by a large column or by an offset of all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.artifacts.verdict import WorstColumns

if TYPE_CHECKING:
    from orchestrator.verify.parity import Array

__all__ = ["compare_columns"]

WIDEST = 256
"""The maximum number of columns; in wider outputs (vocabularies, pixels) a single column has no meaning of its own."""

FEWEST_VALUES = 8
"""The minimum number of values in a column; the direction of fewer values means nothing."""

CONSTANT = 1e-3
"""A column whose values vary by less than this fraction of their size is constant; its noise is not judged."""

SMALL = 0.05
"""A column that varies by less than this is not judged either: relative to the output's magnitude if that is below 1, else
absolute. Otherwise rare classes of a softmax, which have the scale of the other classes, would be judged by their own."""

NOISE_ROOM = 100.0
"""A column is only judged if its values vary by this many times the noise of the arithmetic."""


def compare_columns(expected: Array, actual: Array, *, noise: float = 0.0) -> WorstColumns | None:
    """Compare each index of the last axis separately, over all rows and other axes.

    Args:
        expected: the baseline's output on the samples, rows first. An output with one axis is one column.
        actual: the variant's output, of the same shape.
        noise: of the precision's arithmetic, as a fraction of the output's magnitude.

    Returns:
        The worst columns; None if there is nothing to judge: no floats, too many columns, or all of them constant.
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
    return WorstColumns(
        judged=len(columns),
        max_error=float(errors[worst]),
        error_column=int(columns[worst]),
        min_cosine=float(cosines[least]),
        cosine_column=int(columns[least]),
    )


def _cosines(left: Array, right: Array) -> Array:
    right = right / np.maximum(1.0, np.abs(right).max(axis=0))
    lengths = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    # Length zero: the variant's values are the mean in every row, and have no direction.
    found = (left * right).sum(axis=0) / np.where(lengths > 0, lengths, 1.0)
    clipped: Array = np.clip(found, -1.0, 1.0)
    return clipped
