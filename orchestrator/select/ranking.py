"""Which of the measured servers is the best for an objective, what counts as a tie, and who wins one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.table import backend
from orchestrator.measure.finalists import decisive_seconds
from orchestrator.select.fates import Standing
from orchestrator.select.service_level import milliseconds

__all__ = ["Choice", "choose", "choose_by_runtime", "compared"]

_TIE = 0.05
"""Within 5 % two are equal: what is repeated on the same machine varies by as much. So are two further apart whose
intervals overlap, since what was measured does not tell them apart."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """One number of a server's row, and whether less or more of it is better."""

    name: str
    of: Callable[[Mapping[str, Any]], float]
    text: Callable[[Mapping[str, Any]], str]
    interval: Callable[[Mapping[str, Any]], tuple[float, float]]
    more: bool = False

    def worse_by(self, server: Mapping[str, Any], best: Mapping[str, Any]) -> float:
        """How many times worse it is than the best; 1 is equal."""
        mine, its = self.of(server), self.of(best)
        if self.more:
            mine, its = its, mine
        return mine / its if its > 0 else 1.0

    def ties(self, server: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
        """Whether it cannot be told from the best."""
        (low, high), (its_low, its_high) = self.interval(server), self.interval(best)
        return self.worse_by(server, best) <= 1 + _TIE or (low <= its_high and its_low <= high)


def _p99_interval(server: Mapping[str, Any]) -> tuple[float, float]:
    low, high = server["open_loop"]["p99_interval"]
    return low, math.inf if high is None else high


def _range(name: str) -> Callable[[Mapping[str, Any]], tuple[float, float]]:
    """From the least to the most of the segments: those of two equal servers, four each, are apart once in 35 times."""
    return lambda server: (min(server["saturation"][name]), max(server["saturation"][name]))


def _peak(server: Mapping[str, Any]) -> tuple[float, float]:
    return server["peak_rss"], server["peak_rss"]


_LATENCY = _Measure(
    "p99 over the wire",
    lambda server: server["open_loop"]["p99"],
    lambda server: f"p99 {milliseconds(server['open_loop']['p99'])} at {server['open_loop']['rate']:.4g}/s",
    _p99_interval,
)
_THROUGHPUT = _Measure(
    "saturated throughput",
    lambda server: server["saturation"]["rows_per_second"],
    lambda server: f"{server['saturation']['rows_per_second']:.4g} rows/s saturated",
    _range("by_segment"),
    more=True,
)
_COST = _Measure(
    "CPU time for a request",
    lambda server: server["saturation"]["cpu_seconds_per_request"],
    lambda server: f"{milliseconds(server['saturation']['cpu_seconds_per_request'])} of CPU time a request",
    _range("cpu_by_segment"),
)
_MEMORY = _Measure(
    "peak memory",
    lambda server: server["peak_rss"],
    lambda server: f"{server['peak_rss'] / 2**20:.0f} MiB at most",
    _peak,
)

_ORDER: Mapping[str, tuple[_Measure, ...]] = {
    "latency": (_LATENCY, _THROUGHPUT, _MEMORY),
    "throughput": (_THROUGHPUT, _LATENCY, _MEMORY),
    "cost": (_COST, _THROUGHPUT, _MEMORY),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The winner, and the sentence that says by what it won.

    Attributes:
        runtimes_alone: why runtimes were compared and not servers; empty where it was servers.
    """

    winner: Standing
    reason: str
    runtimes_alone: str = ""


def choose(contenders: Sequence[Standing], objective: str) -> Choice:
    """The best: by the objective's first measure, and where that ties by the next one.

    Args:
        contenders: measured in their servers; at least one.
        objective: `latency`, `throughput` or `cost`.
    """
    left = list(contenders)
    ties: list[tuple[str, list[Standing]]] = []
    for measure in _ORDER[objective]:
        best = _best(left, measure)
        equals = [c for c in left if measure.ties(c.server, best.server)]
        sound = [c for c in equals if _maintained(c)]
        if len(equals) > 1:
            ties.append((measure.name, equals))
        left = sound or equals
        if len(left) == 1:
            winner = left[0]
            tied = ties and winner in ties[-1][1] and ties[-1][0] == measure.name
            lead = measure.text(winner.server) if tied else f"best {measure.name}: {measure.text(winner.server)}"
            return Choice(winner, ", ".join([lead, *_ties(ties, winner)]))
    # Equal in everything that is measured: the order of the spec decides, which noise cannot change.
    winner = left[0]
    return Choice(winner, ", ".join([_ORDER[objective][0].text(winner.server), *_ties(ties, winner)]))


def _ties(ties: Sequence[tuple[str, Sequence[Standing]]], winner: Standing) -> list[str]:
    said = []
    for name, equals in ties:
        others = [c for c in equals if c is not winner]
        barred = sorted({c.backend for c in others if not _maintained(c)}) if _maintained(winner) else []
        why = f" ({', '.join(barred)} gets no more security fixes, so it wins no tie)" if barred else ""
        said.append(f"{name} not told apart from that of {', '.join(c.variant for c in others)}{why}")
    return said


def choose_by_runtime(contenders: Sequence[Standing], objective: str) -> Choice:
    """The best by what the runtimes showed; of those that tie, the first in the order of the spec.

    Args:
        contenders: measured in their runtimes, in the order of the spec; at least one.
        objective: `latency`, `throughput` or `cost`.
    """
    best = min(decisive_seconds(contender.runtime, objective) for contender in contenders)
    equals = [c for c in contenders if decisive_seconds(c.runtime, objective) <= best * (1 + _TIE)]
    winner = next((c for c in equals if _maintained(c)), equals[0])
    if len(equals) == 1:
        lead = f"best in its runtime alone: {_runtime_text(winner, objective)}"
    else:
        tie = ", ".join(_ties([("its time", equals)], winner))
        lead = f"{_runtime_text(winner, objective)} in its runtime alone, {tie}; of those the first in the spec"
    why = _no_server(contenders, winner)
    return Choice(winner, f"{lead}; {why}", why)


def _maintained(contender: Standing) -> bool:
    """What gets no more security fixes must be better to be picked, not as good."""
    return backend(contender.backend).maintained


def _no_server(contenders: Sequence[Standing], winner: Standing) -> str:
    """Why not all could be compared over the wire: the winner's own reason, or that of another."""
    if not winner.over_the_wire:
        return str(winner.server["reason"])
    other = next(contender for contender in contenders if not contender.over_the_wire)
    return f"{other.variant} is compared by its runtime alone: {other.server['reason']}"


def _runtime_text(contender: Standing, objective: str) -> str:
    seconds = decisive_seconds(contender.runtime, objective)
    return f"{milliseconds(seconds)} a call" if objective == "latency" else f"{1 / seconds:.4g} rows/s"


def compared(loser: Standing, choice: Choice, objective: str) -> str:
    """Why a contender lost, in numbers."""
    winner = choice.winner
    if choice.runtimes_alone:
        times = decisive_seconds(loser.runtime, objective) / decisive_seconds(winner.runtime, objective)
        tie = "not measurably better than" if times <= 1 + _TIE else f"{times:.2f} times that of"
        return f"{_runtime_text(loser, objective)} in its runtime, {tie} {winner.variant}"
    if not loser.over_the_wire:
        return f"what was measured over the wire goes first, and this was not: {loser.server['reason']}"
    for measure in _ORDER[objective]:
        times = measure.worse_by(loser.server, winner.server)
        if times > 1 and not measure.ties(loser.server, winner.server):
            return f"{measure.name}: {measure.text(loser.server)}, {times:.2f} times worse than {winner.variant}"
    if not _maintained(loser) and _maintained(winner):
        return f"not measurably better than {winner.variant}, and {loser.backend} gets no more security fixes"
    first = _ORDER[objective][0]
    return f"not measurably better than {winner.variant}: {first.text(loser.server)}"


def _best(contenders: Sequence[Standing], measure: _Measure) -> Standing:
    return (max if measure.more else min)(contenders, key=lambda contender: measure.of(contender.server))
