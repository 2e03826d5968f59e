"""Compares outputs row by row, to find the single answers that are wrong among many that are right."""

from __future__ import annotations

import numpy as np

from orchestrator.artifacts.baseline import Answers
from orchestrator.artifacts.verdict import OutputParity
from orchestrator.verify.parity import RELATIVE_FLOOR, vector_cosine

__all__ = ["with_rows"]


def with_rows(parity: OutputParity, expected: Answers, actual: Answers) -> OutputParity:
    """The same comparison with the row whose direction differs most from the baseline's.

    A row is everything that the output has for one sample: one index of the first axis with whatever axes follow. Rows of one
    number have no direction, nor have those of the baseline that stay within `RELATIVE_FLOOR` of the output's magnitude: they
    are left to the absolute error, and values that are not finite to the gate of finite values.

    Args:
        parity: what `compare` found.
        expected: the baseline's output: an array with rows as the first axis, or one array for each sample.
        actual: the variant's.
    """
    if parity.mismatch is not None or parity.max_abs_error is None:
        return parity
    cosines: dict[int, float] = {}
    for row, (one, other) in enumerate(zip(expected, actual, strict=True)):
        if one.size < 2:
            continue
        left, right = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        both = np.isfinite(left) & np.isfinite(right)
        if np.abs(left[both]).max(initial=0.0) > RELATIVE_FLOOR * parity.magnitude:
            cosines[row] = vector_cosine(left[both], right[both])
    if not cosines:
        return parity
    farthest = min(cosines, key=cosines.__getitem__)
    return parity.model_copy(update={"row_cosine": cosines[farthest], "farthest_row": farthest})
