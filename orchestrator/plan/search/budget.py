"""The time of a search: what was spent, by receipts, and what another candidate would take, by what its like took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from orchestrator.plan.step import Failed, Succeeded

__all__ = ["FINALISTS_SHARE", "Budget"]

Ended = Mapping[str, Succeeded | Failed]

FINALISTS_SHARE = 0.4
"""The part of the time budget that is kept for measuring the finalists in their runtimes and servers."""

_BETWEEN = 1.0
"""Seconds between the end of a step and the beginning of the next one that still belong to the run; receipts have whole ones."""

_UNKNOWN = 10.0
"""Seconds of a step of which nothing like it has run."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of a time budget once some steps have ended.

    No clock is read, only when steps ran, which receipts keep, so that a run that was killed and goes on counts the same. A step
    that took too long or crashed leaves none: it counts in the run that it ended in, and the next run tries it again. Time between two runs does not
    count; what was computed before by another run, and is found, counts as if this one had computed it.

    Attributes:
        total: `optimize.time_budget`, seconds.
        ended: the steps that have ended.
    """

    total: float
    ended: Ended

    @property
    def spent(self) -> float:
        """Seconds during which at least one step ran, from the first step on, and those between two steps of a run."""
        spans = sorted(
            (each.took.began, each.took.began + each.took.seconds)
            for each in self.ended.values()
            if each.took is not None
        )
        spent, until = 0.0, float("-inf")
        for began, ended in spans:
            spent += max(0.0, ended - (until if began - until <= _BETWEEN else began))
            until = max(until, ended)
        return spent

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self.total - self.spent)

    def for_rounds(self, finalists: float = 0.0) -> float:
        """The same without what is kept for the finalists: their share, or the seconds that they are known to need."""
        return max(0.0, self.left - max(FINALISTS_SHARE * self.total, finalists))

    def step(self, like: Iterable[str]) -> float:
        """Seconds that a step may take: the mean of those whose ids begin with the first of `like` that any has."""
        for prefix in like:
            took = [e.took.seconds for name, e in self.ended.items() if name.startswith(prefix) and e.took is not None]
            if took:
                return fmean(took)
        return _UNKNOWN
