"""The document of `probe`: what a model was seen to take when it was called with inputs of many sizes and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.artifacts.document import Document

__all__ = ["Probed", "ProbedDim", "ProbedInput"]


@dataclass(frozen=True, slots=True)
class ProbedDim:
    """The sizes of a dimension.

    Attributes:
        low, high: the smallest and the largest size to declare; both are multiples of `step`.
        step: the sizes are multiples of it.
        reason: why these, a phrase.
        same_as: another dimension that has the same size in every call that the model takes; None if there is none.
    """

    low: int
    high: int
    step: int
    reason: str
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class ProbedInput:
    """What an input may hold.

    Attributes:
        range: the smallest and the largest integer; None if the `values` are known, or nothing is.
        values: the only ones; None if a range is known, or nothing is.
        reason: why these, or what a person has to say, a phrase.
        question: whether a person has to say it.
    """

    range: tuple[int, int] | None
    values: tuple[int, ...] | None
    reason: str
    question: bool = False


class Probed(Document):
    """The result of the step `probe`.

    Attributes:
        dims: name of a dimension in the proposed signature → its sizes.
        inputs: name of an input → what it may hold; those of which nothing was found are left out.
        misdeclared: name of an output that has not the shape that the model's file states → what it has instead, a phrase.
        batch: the batch dimension; None if there is none.
        why_batch: why it is not the proposed one, a clause; empty if it is.
        questions: what could not be found out and a person has to decide, a sentence each without a full stop.
        calls: how often the model was called.
    """

    NAME: ClassVar[str] = "probed"
    VERSION: ClassVar[int] = 3
    FILE: ClassVar[str] = "probed.json"

    dims: Mapping[str, ProbedDim]
    inputs: Mapping[str, ProbedInput]
    misdeclared: Mapping[str, str]
    batch: str | None
    why_batch: str
    questions: tuple[str, ...]
    calls: int
