"""What a round of a search shows: who leads, who is clearly dominated, and which changes help. Pure, from the report alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.artifacts.measurement import Objective, times_text
from orchestrator.artifacts.round_report import RoundReport, RoundResult
from orchestrator.measure.statistics import Comparison, compare_rounds, faster_by_chance, holm
from orchestrator.steps.parameters import SearchedParameters

__all__ = ["Field", "compared", "dropped", "faster", "fate_without_times", "leaders"]

_CLEARLY = 1.2
"""A candidate is dominated by one of its own backend if it takes at least this many times as long, with its whole interval:
the second best that the server benchmark takes may be as slow."""

_CLEARLY_ELSEWHERE = 2.0
"""The same for the best of another backend, whose server may add less."""

_NEAR = 1.2
"""The best of another backend is searched too, if it may take at most this many times as long as the best of all."""

_RISK = 0.05
"""The chance that even one change of a round is called helpful and is not."""

_WITHOUT_INTERVAL = 2.0
"""With too few turns for an interval, every turn has to show this many times the limit."""


@dataclass(frozen=True, slots=True)
class Field:
    """The candidates of a round that were measured to its end.

    Attributes:
        report: of the round.
        objective: what counts.
    """

    report: RoundReport
    objective: Objective

    @property
    def measured(self) -> tuple[RoundResult, ...]:
        """From the best to the worst; of equal ones, in the order of the round."""
        found = [each for each in self.report.candidates if each.fate == "measured" and each.times]
        return tuple(sorted(found, key=self.seconds))

    @property
    def seconds_each(self) -> float:
        """What the round took for each candidate that was loaded and warmed up."""
        opened = [each for each in self.report.candidates if each.fate in {"measured", "dominated"}]
        return self.report.seconds / max(1, len(opened))

    def result(self, name: str) -> RoundResult | None:
        """That of the candidate, if it was in the round."""
        return next((each for each in self.report.candidates if each.candidate == name), None)

    def seconds(self, result: RoundResult) -> float:
        """The median time that counts."""
        return median(times.of(self.objective) for times in result.times)

    def compare(self, one: RoundResult, other: RoundResult) -> Comparison | None:
        """One candidate's times compared with another's; None if they have no turn in common."""
        ratios = self.ratios(one, other)
        return compare_rounds(ratios, [1.0] * len(ratios)) if ratios else None

    def ratios(self, one: RoundResult, other: RoundResult) -> list[float]:
        """One candidate's times divided by another's, turn by turn."""
        theirs = {times.number: times.of(self.objective) for times in other.times}
        return [t.of(self.objective) / theirs[t.number] for t in one.times if t.number in theirs]


def leaders(field: Field) -> tuple[str, ...]:
    """The best candidate, and the best of each other backend that may come near it."""
    measured = field.measured
    if not measured:
        return ()
    first = measured[0]
    found = [first]
    for each in measured:
        if each.backend in {known.backend for known in found}:
            continue
        comparison = field.compare(each, first)
        if comparison is not None and _least(comparison) <= _NEAR:
            found.append(each)
    return tuple(each.candidate for each in found)


def faster(field: Field, pairs: Iterable[tuple[RoundResult, RoundResult]]) -> frozenset[str]:
    """The first ones of these pairs that are faster than their second ones beyond doubt, however many are asked about.

    With many questions, intervals of 95 % alone would often call one of them faster by chance (`statistics.holm`).
    """
    ratios = {one.candidate: found for one, other in pairs if (found := field.ratios(one, other))}
    return holm({name: faster_by_chance(each) for name, each in ratios.items()}, _RISK)


def dropped(field: Field) -> dict[str, SearchedParameters]:
    """The candidates that cannot win, with their fates: clearly dominated, or not measured to the end."""
    fates = {each.candidate: fate for each in field.report.candidates if (fate := fate_without_times(each)) is not None}
    measured = field.measured
    best: dict[str, RoundResult] = {}
    for each in measured:
        best.setdefault(each.backend, each)
    for each in measured:
        own, first = best[each.backend], measured[0]
        for other, limit, where in ((own, _CLEARLY, " on the same backend"), (first, _CLEARLY_ELSEWHERE, "")):
            comparison = None if other is each else field.compare(each, other)
            if comparison is not None and _clearly_above(field.ratios(each, other), comparison, limit):
                text = f"it takes {compared(comparison)} {other.candidate}{where}"
                fates[each.candidate] = SearchedParameters("dominated", text)
                break
    return fates


def _least(comparison: Comparison) -> float:
    """The lower end of the interval; the ratio itself where there are too few turns for one."""
    return comparison.ratio if comparison.high is None else comparison.low


def _clearly_above(ratios: Sequence[float], comparison: Comparison, limit: float) -> bool:
    return min(ratios) > _WITHOUT_INTERVAL * limit if comparison.high is None else comparison.low > limit


def fate_without_times(result: RoundResult) -> SearchedParameters | None:
    """The fate of a candidate that was not measured to the end of its round; None if it was."""
    match result.fate:
        case "measured":
            return None if result.times else SearchedParameters("not measured", "there was no time for a turn")
        case "same":
            return SearchedParameters("same as another", result.reason)
        case "dominated" | "out of memory":
            return SearchedParameters(result.fate, result.reason)
        case _:
            return SearchedParameters("not measured", result.reason)


def compared(comparison: Comparison) -> str:
    """A comparison in words: `1.30 times (1.22 to 1.41 over 12 turns) as long as`."""
    turns = "1 turn" if comparison.rounds == 1 else f"{comparison.rounds} turns"
    between = (
        f"too few for an interval: {turns}"
        if comparison.high is None
        else f"{times_text(comparison.low)} to {times_text(comparison.high)} over {turns}"
    )
    return f"{times_text(comparison.ratio)} times ({between}) as long as"
