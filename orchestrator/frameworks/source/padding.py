"""Tells differences at padded positions from others: those where a mask says that nothing stands, or where ids are padded with 0.

What a model returns there is often undefined: a fused implementation of attention leaves zeros where the unfused one computes
something. Nobody reads it, but two answers of which one has it and the other has not cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array

__all__ = ["Padding", "padding_of_difference"]


@dataclass(frozen=True, slots=True)
class Padding:
    """The positions of a call at which an output differs and nothing stands.

    Attributes:
        input: the input that marks them.
        value: what it holds there, 0 or 1.
    """

    input: str
    value: int

    def remedy(self, output: str) -> str:
        """What to do, for the author of the model's code."""
        return (
            f"at the end of the model, set `{output}` to a constant where `{self.input}` is {self.value} (with torch.where or "
            "tf.where), so that it is the same in every format and batch; clients do not read these positions"
        )


def padding_of_difference(
    inputs: Mapping[str, Array], one: Array, other: Array, same: Callable[[Array, Array], bool], *, batched: bool
) -> Padding | None:
    """The padding at which two outputs differ, if they differ nowhere else; None if there is none.

    Args:
        inputs: of the call.
        one: an output, whose first dimensions are those of the input that marks the padding.
        other: the same output of another call, or of another model.
        same: whether two parts of the outputs agree.
        batched: whether the first dimension of inputs and outputs counts requests, and not positions.
    """
    if one.shape != other.shape:
        return None
    for name, array in sorted(inputs.items(), key=lambda each: not _is_mask(each[1])):
        if array.ndim < 1 + batched or one.shape[: array.ndim] != array.shape:
            continue
        for value in _padding_values(array):
            kept = array != value
            if kept.any() and same(one[kept], other[kept]):
                return Padding(name, value)
    return None


def _padding_values(array: Array) -> Iterator[int]:
    """The values with which an input marks padding: one of a mask's two, or the 0 with which ids begin or end."""
    if array.dtype.kind not in "biuf" or not (array == 0).any():
        return
    if _is_mask(array):
        yield from (0, 1)
    elif array.dtype.kind in "iu" and _is_at_an_end(array == 0):
        yield 0


def _is_mask(array: Array) -> bool:
    return array.dtype.kind in "biuf" and bool(((array == 0) | (array == 1)).all())


def _is_at_an_end(zeros: Array) -> bool:
    """Whether the zeros of each row stand together at its end, or at its beginning."""
    turns = np.diff(zeros.astype(np.int8), axis=-1)
    return bool((turns >= 0).all() or (turns <= 0).all())
