"""The document of `benchmark.round-N`: candidates of one round of a search, measured in turns, cheaply."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.measurement import MeasuredOn, Objective
from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict

__all__ = ["RoundFate", "RoundReport", "RoundResult", "RoundTimes"]

RoundFate = Literal["measured", "dominated", "out of memory", "failed", "not measured", "same"]
"""The outcome of a round for one candidate; `same`: another one has the same model file and options, and was measured."""


class RoundTimes(Strict):
    """What one candidate took in one turn, seconds.

    Attributes:
        number: of the turn, from 0; candidates with the same number ran shortly after each other.
        call: the median call with the smallest batch.
        row: the mean time of a row at the candidate's best batch size.
    """

    number: int
    call: float
    row: float

    def of(self, objective: Objective) -> float:
        """The time that counts for the objective."""
        return self.call if objective == "latency" else self.row


class RoundResult(CandidateIdentity):
    """The result of one candidate.

    Attributes:
        reason: a sentence without a full stop; empty if it was measured to the end.
        error: what failed, if its fate is `out of memory` or `failed`.
        same_as: the candidate that was measured in its place; None unless that is its fate.
        times: by turn, ascending; empty if nothing could be measured.
    """

    fate: RoundFate
    reason: str
    error: Diagnostic | None
    same_as: str | None
    times: tuple[RoundTimes, ...]


class RoundReport(Document):
    """One round of a search.

    Attributes:
        batch_sizes: rows of a call.
        seconds: that the round took, with loading and warming up.
        candidates: all of the round, in its order.
    """

    NAME: ClassVar[str] = "round_report"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "round_report.json"

    measured_on: MeasuredOn
    batch_sizes: tuple[int, ...]
    seconds: float
    candidates: tuple[RoundResult, ...]
