"""The outputs of the baseline on the samples, and the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BASELINE_FILE", "Answers", "answers_of", "as_arrays", "read_baseline"]

Array = np.ndarray[Any, Any]

BASELINE_FILE = "baseline.npz"
"""The model's outputs on the samples, by name.

An output is one array with rows as the first axis. Where its shape depends on the values of the inputs, it is an array for
each sample: `NAME/0`, `NAME/1`, and so on.
"""

Answers = Array | tuple[Array, ...]
"""An output on all samples: an array with rows as the first axis, or the array of each sample if their shapes differ."""


def answers_of(calls: Sequence[Array]) -> Answers:
    """An output of calls with one sample each."""
    return np.stack(calls) if len({array.shape for array in calls}) == 1 else tuple(calls)


def as_arrays(outputs: Mapping[str, Answers]) -> dict[str, Array]:
    """The arrays of the file."""
    found: dict[str, Array] = {}
    for name, answers in outputs.items():
        if isinstance(answers, tuple):
            found |= {f"{name}/{row}": array for row, array in enumerate(answers)}
        else:
            found[name] = answers
    return found


def read_baseline(folder: Path) -> dict[str, Answers]:
    """The outputs by name.

    Args:
        folder: the output folder of the import step.
    """
    calls: dict[str, list[Array]] = {}
    outputs: dict[str, Answers] = {}
    with np.load(folder / BASELINE_FILE, allow_pickle=False) as file:
        for key in file.files:
            name, apart, _ = key.partition("/")
            if apart:  # in the order in which `as_arrays` put them
                calls.setdefault(name, []).append(file[key])
            else:
                outputs[name] = file[key]
    return outputs | {name: tuple(arrays) for name, arrays in calls.items()}
