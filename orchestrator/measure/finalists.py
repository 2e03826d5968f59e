"""Selects the finalists, the candidates whose servers are measured, from the runtime benchmark; and their batch sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.artifacts.measurement import Objective, times_text
from orchestrator.artifacts.runtime_report import CandidateRuntimeResult, PairedTimes, RuntimeMeasurement
from orchestrator.artifacts.server_report import ServerFate
from orchestrator.measure.statistics import FEWEST_ROUNDS

__all__ = [
    "NOT_MEASURABLY",
    "against_baseline",
    "auto_batch_size",
    "decisive_seconds",
    "finalists",
    "not_faster",
    "substitutes",
    "undecided",
]

NOT_MEASURABLY = "not measurably faster"
"""Begins the reason of a candidate that more rounds might show to be faster."""

_SECOND = 1.2
"""The second-best candidate of a backend is a finalist too if it takes at most this many times as long as the best."""

_AS_GOOD = 0.95
"""Batch sizes with at least this fraction of the best throughput count as equal. The smallest of them is chosen, so that
noise does not change what is deployed."""


def decisive_seconds(measured: RuntimeMeasurement, objective: Objective) -> float:
    """The time that the objective compares in the runtime benchmark; lower is better.

    Latency: the median time of a call with the smallest batch. Throughput and cost: the time per row at the best batch
    size (all threads are busy then, so it is proportional to CPU time).
    """
    if objective == "latency":
        return measured.batches[0].p50
    return 1 / max(batch.rows_per_second for batch in measured.batches)


def not_faster(candidate: CandidateRuntimeResult, objective: Objective) -> str:
    """Why a candidate is not faster than the baseline; empty if it is faster.

    It is faster if the whole confidence interval lies below 1. Also empty for candidates that were not compared, or in too
    few rounds (see `undecided`), and for the original model itself.
    """
    if candidate.as_given:
        return ""
    comparison = against_baseline(candidate, objective)
    if comparison is None or comparison.faster or comparison.high is None:
        return ""
    what = "latency" if objective == "latency" else "time per row"
    comparison_text = f"its {what} is {times_text(comparison.ratio)} times the baseline's"
    if comparison.slower:
        return comparison_text
    return (
        f"{NOT_MEASURABLY}: {comparison_text}, between {times_text(comparison.low)} and {times_text(comparison.high)} "
        f"over {comparison.rounds} rounds"
    )


def undecided(candidate: CandidateRuntimeResult, objective: Objective) -> str:
    """Why it is unknown whether a candidate is faster than the baseline; empty if it is known, or for the original model."""
    if candidate.as_given:
        return ""
    comparison = against_baseline(candidate, objective)
    if comparison is None or comparison.high is not None:
        return ""
    rounds = "1 round" if comparison.rounds == 1 else f"{comparison.rounds} rounds"
    return f"only measured for {rounds}; comparing it with the baseline takes {FEWEST_ROUNDS}"


def against_baseline(candidate: CandidateRuntimeResult, objective: Objective) -> PairedTimes | None:
    """The comparison of a candidate with the baseline for the objective; None if either could not be measured."""
    against = None if candidate.measured is None else candidate.measured.against_baseline
    return None if against is None else against.for_objective(objective)


def finalists(
    candidates: Sequence[CandidateRuntimeResult], objective: Objective, tuned: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The candidates whose servers are measured: the best of each backend, and the second-best if it is close.

    Where the best has other options of the runtime than the usual ones, the best with the usual ones is a finalist too: what a flag
    saves in a runtime by itself, it may cost in a server, which has more to do with the same CPUs.

    Args:
        candidates: of the runtime benchmark's report.
        objective: `latency`, `throughput` or `cost`.
        tuned: names of those with other options of the runtime.

    Returns:
        Their names; and for each other measured candidate, the reason why it is not a finalist.
    """
    measured = [candidate for candidate in candidates if candidate.fate == "measured"]
    passed_over = {c.candidate: reason for c in measured if (reason := _no_gain(c, objective))}
    chosen: list[str] = []
    for best, *others in _by_backend(candidates, objective):
        chosen.append(best.candidate)
        usual = next((other for other in others if other.candidate not in tuned), None)
        for place, other in enumerate(others):
            times = _seconds(other, objective) / _seconds(best, objective)
            if (place == 0 and times <= _SECOND) or (best.candidate in tuned and other is usual):
                chosen.append(other.candidate)
            else:
                passed_over[other.candidate] = (
                    f"it takes {times_text(times)} times as long as {best.candidate} on the same backend"
                )
    return chosen, passed_over


def substitutes(
    candidates: Sequence[CandidateRuntimeResult], objective: Objective, tried: Mapping[str, ServerFate]
) -> list[str]:
    """The candidates to start in place of failed servers: the next best of each backend that has no working server.

    Args:
        candidates: of the runtime benchmark's report.
        objective: `latency`, `throughput` or `cost`.
        tried: candidate → its fate so far, for all that were started.
    """
    found = []
    for group in _by_backend(candidates, objective):
        fates = [tried[c.candidate] for c in group if c.candidate in tried]
        left = [c.candidate for c in group if c.candidate not in tried]
        # If a backend cannot be started here ("no server"), it cannot start any of its candidates.
        if fates and left and all(fate in {"failed", "out of memory"} for fate in fates):
            found.append(left[0])
    return found


def _no_gain(candidate: CandidateRuntimeResult, objective: Objective) -> str:
    return undecided(candidate, objective) or not_faster(candidate, objective)


def _by_backend(
    candidates: Sequence[CandidateRuntimeResult], objective: Objective
) -> list[list[CandidateRuntimeResult]]:
    """The candidates that may become finalists, those of each backend from the best to the worst."""
    groups: dict[str, list[CandidateRuntimeResult]] = {}
    for candidate in candidates:
        if candidate.fate == "measured" and not _no_gain(candidate, objective):
            groups.setdefault(candidate.backend, []).append(candidate)
    return [sorted(group, key=lambda c: _seconds(c, objective)) for group in groups.values()]


def _seconds(candidate: CandidateRuntimeResult, objective: Objective) -> float:
    assert candidate.measured is not None, "a measured candidate has times"
    return decisive_seconds(candidate.measured, objective)


def auto_batch_size(measured: RuntimeMeasurement, p99_limit: float | None) -> int:
    """The maximum batch size of the server: the measured size with the best throughput within the latency limit.

    A request may have to wait for one full batch before its own runs, so a batch may take half the limit. If several sizes
    are equally good, the smallest.

    Args:
        measured: the candidate in the runtime benchmark.
        p99_limit: of the SLO, seconds; None for no limit.
    """
    batches = measured.batches
    allowed = [batch for batch in batches if p99_limit is None or batch.p99 <= p99_limit / 2] or batches[:1]
    best = max(batch.rows_per_second for batch in allowed)
    return next(batch.rows for batch in allowed if batch.rows_per_second >= _AS_GOOD * best)
