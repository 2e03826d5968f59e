"""From the runtime benchmark to the servers that are worth starting, and the batch size that each is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import PairedTimes, RuntimeMeasurement, RuntimeRow
from orchestrator.artifacts.server_report import ServerFate
from orchestrator.measure.statistics import FEWEST_ROUNDS

__all__ = [
    "against_baseline",
    "auto_batch_size",
    "decisive_seconds",
    "finalists",
    "not_faster",
    "substitutes",
    "undecided",
]

_SECOND = 1.2
"""A backend's second-best variant is measured too if it needs at most this many times the best one's time."""

_AS_GOOD = 0.95
"""A batch size with this part of the best throughput is as good: the smallest such is taken, so that noise between
equals does not change what is deployed."""


def decisive_seconds(measured: RuntimeMeasurement, objective: Objective) -> float:
    """What the objective looks at in the runtime benchmark; less is better.

    Latency: the median of one call of the smallest batch. Throughput and cost: time for each row at the best batch size
    (all threads are busy then, so time is CPU time as well).
    """
    if objective == "latency":
        return measured.batches[0].p50
    return 1 / max(batch.rows_per_second for batch in measured.batches)


def not_faster(candidate: RuntimeRow, objective: Objective) -> str:
    """Why a candidate is no gain over the model as given, or nothing if it is one.

    The whole confidence interval must lie below 1; what cannot be told apart is not faster. Empty too for what was not
    compared, or in too few rounds: see `undecided`; and for the model as given, which is what has to be beaten.
    """
    if candidate.as_given:
        return ""
    comparison = against_baseline(candidate, objective)
    if comparison is None or comparison.faster or comparison.high is None:
        return ""
    what = "latency" if objective == "latency" else "time for each row"
    said = f"its {what} is {comparison.ratio:.2f} times the baseline's"
    if comparison.slower:
        return said
    return (
        f"not measurably faster: {said}, between {comparison.low:.2f} and {comparison.high:.2f} "
        f"over {comparison.rounds} rounds"
    )


def undecided(candidate: RuntimeRow, objective: Objective) -> str:
    """Why it is not known whether a candidate is faster than the model as given, or nothing if it is known or is that."""
    if candidate.as_given:
        return ""
    comparison = against_baseline(candidate, objective)
    if comparison is None or comparison.high is not None:
        return ""
    rounds = "1 round" if comparison.rounds == 1 else f"{comparison.rounds} rounds"
    return f"measured for {rounds}, and it takes {FEWEST_ROUNDS} to tell whether it is faster than the baseline"


def against_baseline(candidate: RuntimeRow, objective: Objective) -> PairedTimes | None:
    """How a candidate compares in what the objective looks at; None where the baseline could not be measured."""
    against = None if candidate.measured is None else candidate.measured.against_baseline
    return None if against is None else against.in_what_matters_for(objective)


def finalists(candidates: Sequence[RuntimeRow], objective: Objective) -> tuple[list[str], dict[str, str]]:
    """The candidates whose servers are measured: of each backend the best, and the second where it is close.

    Args:
        candidates: of the runtime benchmark's report.
        objective: `latency`, `throughput` or `cost`.

    Returns:
        Their names, and for each other candidate that was measured why it is not among them.
    """
    measured = [candidate for candidate in candidates if candidate.fate == "measured"]
    passed_over = {c.candidate: reason for c in measured if (reason := _no_gain(c, objective))}
    chosen: list[str] = []
    for best, *others in _by_backend(candidates, objective):
        chosen.append(best.candidate)
        for place, other in enumerate(others):
            times = _seconds(other, objective) / _seconds(best, objective)
            if place == 0 and times <= _SECOND:
                chosen.append(other.candidate)
            else:
                passed_over[other.candidate] = (
                    f"its runtime is {times:.2f} times as slow as that of {best.candidate}, on the same backend"
                )
    return chosen, passed_over


def substitutes(candidates: Sequence[RuntimeRow], objective: Objective, tried: Mapping[str, ServerFate]) -> list[str]:
    """The candidates to start in place of servers that failed: of each backend that has none left, the next best.

    Args:
        candidates: of the runtime benchmark's report.
        objective: `latency`, `throughput` or `cost`.
        tried: candidate → its fate so far, of all that were started.
    """
    found = []
    for group in _by_backend(candidates, objective):
        fates = [tried[c.candidate] for c in group if c.candidate in tried]
        left = [c.candidate for c in group if c.candidate not in tried]
        # A backend that cannot be started here ("no server") can start none of its variants.
        if fates and left and all(fate in {"failed", "out of memory"} for fate in fates):
            found.append(left[0])
    return found


def _no_gain(candidate: RuntimeRow, objective: Objective) -> str:
    return undecided(candidate, objective) or not_faster(candidate, objective)


def _by_backend(candidates: Sequence[RuntimeRow], objective: Objective) -> list[list[RuntimeRow]]:
    """What is worth a server, each backend's from the best to the worst."""
    groups: dict[str, list[RuntimeRow]] = {}
    for candidate in candidates:
        if candidate.fate == "measured" and not _no_gain(candidate, objective):
            groups.setdefault(candidate.backend, []).append(candidate)
    return [sorted(group, key=lambda c: _seconds(c, objective)) for group in groups.values()]


def _seconds(candidate: RuntimeRow, objective: Objective) -> float:
    assert candidate.measured is not None, "what was measured has times"
    return decisive_seconds(candidate.measured, objective)


def auto_batch_size(measured: RuntimeMeasurement, p99_limit: float | None) -> int:
    """Rows that go together at most: the batch size of the sweep with the best throughput that the limit allows.

    A request may have to wait for one full batch before its own runs, so a batch may take half the limit. Of sizes that
    are as good, the smallest.

    Args:
        measured: of the candidate, in its runtime.
        p99_limit: of the SLO, seconds; None allows every size.
    """
    batches = measured.batches
    allowed = [batch for batch in batches if p99_limit is None or batch.p99 <= p99_limit / 2] or batches[:1]
    best = max(batch.rows_per_second for batch in allowed)
    return next(batch.rows for batch in allowed if batch.rows_per_second >= _AS_GOOD * best)
