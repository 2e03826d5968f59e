"""Ranks the measured candidates for an objective: what counts as a tie, and who wins one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.server_report import ServerMeasurement
from orchestrator.backends.table import backend
from orchestrator.measure.finalists import decisive_seconds
from orchestrator.select.fates import ConsideredCandidate
from orchestrator.select.service_level import milliseconds

__all__ = ["Choice", "choose", "choose_by_runtime", "compared"]

_TIE = 0.05
"""Two candidates within 5 % tie, because repeated measurements on the same machine vary by as much. They also tie if their
confidence intervals overlap."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """One measure of a server, and whether lower or higher is better."""

    name: str
    of: Callable[[ServerMeasurement], float]
    text: Callable[[ServerMeasurement], str]
    interval: Callable[[ServerMeasurement], tuple[float, float]]
    higher_is_better: bool = False

    def worse_by(self, server: ServerMeasurement, best: ServerMeasurement) -> float:
        """The factor by which it is worse than the best; 1 is equal."""
        value, best_value = self.of(server), self.of(best)
        if self.higher_is_better:
            value, best_value = best_value, value
        return value / best_value if best_value > 0 else 1.0

    def ties(self, server: ServerMeasurement, best: ServerMeasurement) -> bool:
        """Whether it ties with the best."""
        (low, high), (best_low, best_high) = self.interval(server), self.interval(best)
        return self.worse_by(server, best) <= 1 + _TIE or (low <= best_high and best_low <= high)


def _p99_interval(server: ServerMeasurement) -> tuple[float, float]:
    low, high = server.open_loop.p99_interval
    return low, math.inf if high is None else high


def _range(segments: Sequence[float]) -> tuple[float, float]:
    """The range of the segments; with four segments each, the ranges of two equal servers are disjoint once in 35 times."""
    return min(segments), max(segments)


def _peak(server: ServerMeasurement) -> tuple[float, float]:
    return server.peak_rss, server.peak_rss


_LATENCY = _Measure(
    "p99 over the wire",
    lambda server: server.open_loop.p99,
    lambda server: f"p99 {milliseconds(server.open_loop.p99)} at {server.open_loop.rate:.4g}/s",
    _p99_interval,
)
_THROUGHPUT = _Measure(
    "saturated throughput",
    lambda server: server.saturation.rows_per_second,
    lambda server: f"{server.saturation.rows_per_second:.4g} rows/s saturated",
    lambda server: _range(server.saturation.by_segment),
    higher_is_better=True,
)
_COST = _Measure(
    "CPU time per request",
    lambda server: server.saturation.cpu_seconds_per_request,
    lambda server: f"{milliseconds(server.saturation.cpu_seconds_per_request)} of CPU time per request",
    lambda server: _range(server.saturation.cpu_by_segment),
)
_MEMORY = _Measure(
    "peak memory",
    lambda server: server.peak_rss,
    lambda server: f"peak of {server.peak_rss / 2**20:.0f} MiB",
    _peak,
)

_ORDER: Mapping[Objective, tuple[_Measure, ...]] = {
    "latency": (_LATENCY, _THROUGHPUT, _MEMORY),
    "throughput": (_THROUGHPUT, _LATENCY, _MEMORY),
    "cost": (_COST, _THROUGHPUT, _MEMORY),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, and the reason why it won.

    Attributes:
        compared: whether servers were compared over the wire, or runtimes.
        why_runtimes: why runtimes were compared; empty if servers were.
    """

    winner: ConsideredCandidate
    reason: str
    compared: Literal["servers", "runtimes"] = "servers"
    why_runtimes: str = ""


def choose(candidates: Sequence[ConsideredCandidate], objective: Objective) -> Choice:
    """The best candidate by the objective's first measure; if that ties, by the next one.

    Args:
        candidates: with measured servers; at least one.
        objective: `latency`, `throughput` or `cost`.
    """
    left = list(candidates)
    ties: list[tuple[str, list[ConsideredCandidate]]] = []
    for measure in _ORDER[objective]:
        best = _best(left, measure)
        equals = [c for c in left if measure.ties(c.wire, best.wire)]
        maintained = [c for c in equals if _maintained(c)]
        if len(equals) > 1:
            ties.append((measure.name, equals))
        left = maintained or equals
        if len(left) == 1:
            winner = left[0]
            tied = ties and winner in ties[-1][1] and ties[-1][0] == measure.name
            lead = measure.text(winner.wire) if tied else f"best {measure.name}: {measure.text(winner.wire)}"
            return Choice(winner, ", ".join([lead, *_ties(ties, winner)]))
    # All measures tie, so the order of the spec decides, which noise cannot change.
    winner = left[0]
    return Choice(winner, ", ".join([_ORDER[objective][0].text(winner.wire), *_ties(ties, winner)]))


def _ties(ties: Sequence[tuple[str, Sequence[ConsideredCandidate]]], winner: ConsideredCandidate) -> list[str]:
    parts = []
    for name, equals in ties:
        others = [c for c in equals if c is not winner]
        barred = sorted({c.backend for c in others if not _maintained(c)}) if _maintained(winner) else []
        why = f" ({', '.join(barred)} gets no more security fixes, so it never wins a tie)" if barred else ""
        parts.append(f"{name} ties with {', '.join(c.name for c in others)}{why}")
    return parts


def choose_by_runtime(candidates: Sequence[ConsideredCandidate], objective: Objective) -> Choice:
    """The best candidate in the runtime benchmark; if several tie, the first in the order of the spec.

    Args:
        candidates: with measured runtimes, in the order of the spec; at least one.
        objective: `latency`, `throughput` or `cost`.
    """
    best = min(decisive_seconds(candidate.in_runtime, objective) for candidate in candidates)
    equals = [c for c in candidates if decisive_seconds(c.in_runtime, objective) <= best * (1 + _TIE)]
    winner = next((c for c in equals if _maintained(c)), equals[0])
    if len(equals) == 1:
        lead = f"best runtime: {_runtime_text(winner, objective)}"
    else:
        tie = ", ".join(_ties([("time", equals)], winner))
        lead = f"runtime: {_runtime_text(winner, objective)}, {tie}; it is first in the spec"
    why = _no_server(candidates, winner)
    return Choice(winner, f"{lead}; {why}", "runtimes", why)


def _maintained(candidate: ConsideredCandidate) -> bool:
    """Whether its backend still gets security fixes; otherwise it must be better than others to win, not just as good."""
    return backend(candidate.backend).maintained


def _no_server(candidates: Sequence[ConsideredCandidate], winner: ConsideredCandidate) -> str:
    """Why not all candidates could be compared over the wire: the winner's reason, or that of another candidate."""
    if not winner.over_the_wire:
        return winner.without_server
    other = next(candidate for candidate in candidates if not candidate.over_the_wire)
    return f"the server of {other.name} could not be measured: {other.without_server}"


def _runtime_text(candidate: ConsideredCandidate, objective: Objective) -> str:
    seconds = decisive_seconds(candidate.in_runtime, objective)
    return f"{milliseconds(seconds)} per call" if objective == "latency" else f"{1 / seconds:.4g} rows/s"


def compared(loser: ConsideredCandidate, choice: Choice, objective: Objective) -> str:
    """Why a candidate lost against the winner, with numbers."""
    winner = choice.winner
    if choice.compared == "runtimes":
        times = decisive_seconds(loser.in_runtime, objective) / decisive_seconds(winner.in_runtime, objective)
        tie = "not measurably better than" if times <= 1 + _TIE else f"{times:.2f} times worse than"
        return f"runtime: {_runtime_text(loser, objective)}, {tie} {winner.name}"
    if not loser.over_the_wire:
        return f"candidates measured over the wire take precedence, and its server was not measured: {loser.without_server}"
    for measure in _ORDER[objective]:
        times = measure.worse_by(loser.wire, winner.wire)
        if times > 1 and not measure.ties(loser.wire, winner.wire):
            return f"{measure.name}: {measure.text(loser.wire)}, {times:.2f} times worse than {winner.name}"
    if not _maintained(loser) and _maintained(winner):
        return f"not measurably better than {winner.name}, and {loser.backend} gets no more security fixes"
    first = _ORDER[objective][0]
    return f"not measurably better than {winner.name}: {first.text(loser.wire)}"


def _best(candidates: Sequence[ConsideredCandidate], measure: _Measure) -> ConsideredCandidate:
    return (max if measure.higher_is_better else min)(candidates, key=lambda candidate: measure.of(candidate.wire))
