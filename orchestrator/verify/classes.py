"""Whether an output holds scores of classes, so that its largest value means something."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.measure.statistics import binomial_at_most

__all__ = ["holds_classes"]

Array = np.ndarray[Any, Any]

_BY_CHANCE = 0.001
"""Below this probability, it is not by chance that an output's largest values match the labels."""


def holds_classes(output: Array, labels: Array | None) -> bool:
    """Whether the rows of `output` are scores of the classes in the samples' labels.

    They are if there is one score for each class, or if the largest is the label clearly more often than by guessing: an
    embedding has many columns too, but its largest value means nothing.
    """
    if labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1 or labels.size == 0:
        return False
    if output.dtype.kind != "f" or output.ndim != 2 or output.shape[1] < 2:
        return False
    if labels.min() < 0 or labels.max() >= output.shape[1] or len(labels) != len(output):
        return False
    if labels.max() + 1 == output.shape[1]:
        return True
    right = int(np.sum(output.argmax(axis=1) == labels))
    # Always guessing the most common label is right as often as that label occurs.
    guessed = min(0.999, max(1 / output.shape[1], np.bincount(labels).max() / len(labels)))
    return 1 - binomial_at_most(right - 1, len(labels), guessed) < _BY_CHANCE if right else False
