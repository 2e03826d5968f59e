"""Ranks the measured candidates for an objective: what counts as a tie, and who wins one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifacts.measurement import NotMeasured, Objective, rate_text, times_text
from orchestrator.artifacts.server_report import OpenLoop, ServerMeasurement
from orchestrator.backends.table import backend
from orchestrator.measure.finalists import decisive_seconds
from orchestrator.measure.statistics import tail_is_slower
from orchestrator.select.fates import ConsideredCandidate
from orchestrator.select.service_level import milliseconds

__all__ = ["Choice", "choose", "choose_by_runtime", "compared"]

_TIE = 0.05
"""Two candidates within 5 % tie, because repeated measurements on the same machine vary by as much. They also tie if they
are not told apart."""

_SEGMENTS, _FEW_SEGMENTS = 4, 0.2
"""Fewer saturated segments, as slow models have, must differ by 20 % to be told apart."""


def _never(_: ServerMeasurement, __: ServerMeasurement) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class _Measure:
    """One measure of a server, and whether lower or higher is better.

    Attributes:
        of: its value; None if it was not measured.
        text: the value for a person.
        apart: whether a server that looks worse is told apart from a better one.
        why_not_apart: what would tell them apart, if more of it is all that lacks.
    """

    name: str
    of: Callable[[ServerMeasurement], float | None]
    text: Callable[[ServerMeasurement], str]
    apart: Callable[[ServerMeasurement, ServerMeasurement], bool]
    higher_is_better: bool = False
    why_not_apart: Callable[[ServerMeasurement, ServerMeasurement], str] = _never

    def worse_by(self, server: ServerMeasurement, best: ServerMeasurement) -> float:
        """The factor by which it is worse than the best; 1 is equal, or unknown."""
        value, best_value = self.of(server), self.of(best)
        if value is None or best_value is None:
            return 1.0
        if self.higher_is_better:
            value, best_value = best_value, value
        return value / best_value if best_value > 0 else 1.0

    def ties(self, server: ServerMeasurement, best: ServerMeasurement) -> bool:
        """Whether it ties with the best; what was not measured ties with its like only."""
        if self.of(server) is None or self.of(best) is None:
            return self.of(server) is self.of(best)
        return self.worse_by(server, best) <= 1 + _TIE or not self.apart(server, best)


def _p99(server: ServerMeasurement) -> float | None:
    return None if server.on_schedule is None else server.on_schedule.p99


def _p99_text(server: ServerMeasurement) -> str:
    if isinstance(server.open_loop, NotMeasured):
        return f"p99 not measured: {server.open_loop.reason}"
    return f"p99 {milliseconds(server.open_loop.p99)} at {rate_text(server.open_loop.rate)}/s"


def _p99_apart(server: ServerMeasurement, best: ServerMeasurement) -> bool:
    """By the intervals of both, which need hundreds of samples; with fewer, by the slowest answers of both."""
    one, other = server.on_schedule, best.on_schedule
    assert one is not None, "both were measured"
    assert other is not None, "both were measured"
    (low, high), (_, other_high) = one.p99_interval, other.p99_interval
    if other_high is not None and low > other_high:
        return True
    return (high is None or other_high is None) and _slower_tail(one, other) is True


def _slower_tail(one: OpenLoop, other: OpenLoop) -> bool | None:
    return tail_is_slower(one.slowest, one.samples, other.slowest, other.samples)


def _too_few(server: ServerMeasurement, best: ServerMeasurement) -> str:
    one, other = server.on_schedule, best.on_schedule
    if one is None or other is None or one.p99 < other.p99 or _slower_tail(one, other) is not None:
        return ""
    return f"too few answers: {one.samples} and {other.samples}; raise `optimize.time_budget`"


def _rows_text(server: ServerMeasurement) -> str:
    if isinstance(server.saturation, NotMeasured):
        return f"throughput not measured: {server.saturation.reason}"
    limited = " (the load generator could not send clearly more)" if server.saturation.rows_per_second is None else ""
    return f"{server.saturation.rows_text} saturated{limited}"


def _rows_apart(server: ServerMeasurement, best: ServerMeasurement) -> bool:
    """By the ranges of the segments; with four each, those of two equal servers are disjoint once in 35 times."""
    one, other = server.saturated, best.saturated
    assert one is not None, "both were measured"
    assert other is not None, "both were measured"
    if one.rows_per_second is None:  # it may reach any more
        return False
    return _disjoint(other.by_segment, one.by_segment)


def _cpu(server: ServerMeasurement) -> float | None:
    return None if server.saturated is None else server.saturated.cpu_seconds_per_request


def _cpu_text(server: ServerMeasurement) -> str:
    seconds = _cpu(server)
    return "CPU time not measured" if seconds is None else f"{milliseconds(seconds)} of CPU time per request"


def _cpu_apart(server: ServerMeasurement, best: ServerMeasurement) -> bool:
    one, other = server.saturated, best.saturated
    assert one is not None, "both were measured"
    assert other is not None, "both were measured"
    return _disjoint(one.cpu_by_segment, other.cpu_by_segment)


def _disjoint(higher: Sequence[float], lower: Sequence[float]) -> bool:
    """Whether all values of one are above all of the other, with room between them if they are few."""
    few = min(len(higher), len(lower)) < _SEGMENTS
    return min(higher) > max(lower) * (1 + _FEW_SEGMENTS if few else 1)


_LATENCY = _Measure("p99 over the wire", _p99, _p99_text, _p99_apart, why_not_apart=_too_few)
_THROUGHPUT = _Measure(
    "saturated throughput",
    lambda server: None if server.saturated is None else server.saturated.at_least,
    _rows_text,
    _rows_apart,
    higher_is_better=True,
)
_COST = _Measure("CPU time per request", _cpu, _cpu_text, _cpu_apart)
_MEMORY = _Measure(
    "peak memory",
    lambda server: server.peak_rss,
    lambda server: f"peak of {server.peak_rss / 2**20:.0f} MiB",
    lambda server, best: server.peak_rss > best.peak_rss,
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


@dataclass(frozen=True, slots=True)
class _Tie:
    """Candidates that a measure does not tell apart; `few` says so if more answers might."""

    name: str
    equals: Sequence[ConsideredCandidate]
    few: str = ""


def choose(candidates: Sequence[ConsideredCandidate], objective: Objective) -> Choice:
    """The best candidate by the objective's first measure; if that ties, by the next one.

    Args:
        candidates: with measured servers; at least one.
        objective: `latency`, `throughput` or `cost`.
    """
    left = list(candidates)
    ties: list[_Tie] = []
    for measure in _ORDER[objective]:
        best = _best(left, measure)
        equals = [c for c in left if measure.ties(c.wire, best.wire)]
        maintained = [c for c in equals if _maintained(c)]
        if len(equals) > 1:
            few = (measure.why_not_apart(c.wire, best.wire) for c in equals if c is not best)
            ties.append(_Tie(measure.name, equals, next(filter(None, few), "")))
        left = maintained or equals
        if len(left) == 1:
            winner = left[0]
            tied = ties and winner in ties[-1].equals and ties[-1].name == measure.name
            lead = measure.text(winner.wire) if tied else f"best {measure.name}: {measure.text(winner.wire)}"
            return Choice(winner, ", ".join([lead, *_ties(ties, winner)]))
    # All measures tie, so the order of the spec decides, which noise cannot change.
    winner = left[0]
    return Choice(winner, ", ".join([_ORDER[objective][0].text(winner.wire), *_ties(ties, winner)]))


def _ties(ties: Sequence[_Tie], winner: ConsideredCandidate) -> list[str]:
    parts = []
    for tie in ties:
        others = [c for c in tie.equals if c is not winner]
        barred = sorted({c.backend for c in others if not _maintained(c)}) if _maintained(winner) else []
        why = f" ({', '.join(barred)} gets no more security fixes, so it never wins a tie)" if barred else ""
        few = f" ({tie.few})" if tie.few else ""
        parts.append(f"{tie.name} ties with {', '.join(c.name for c in others)}{few}{why}")
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
        tie = ", ".join(_ties([_Tie("time", equals)], winner))
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
    return f"{milliseconds(seconds)} per call" if objective == "latency" else f"{rate_text(1 / seconds)} rows/s"


def compared(loser: ConsideredCandidate, choice: Choice, objective: Objective) -> str:
    """Why a candidate lost against the winner, with numbers."""
    winner = choice.winner
    if choice.compared == "runtimes":
        times = decisive_seconds(loser.in_runtime, objective) / decisive_seconds(winner.in_runtime, objective)
        tie = "not measurably better than" if times <= 1 + _TIE else f"{times_text(times)} times worse than"
        return f"runtime: {_runtime_text(loser, objective)}, {tie} {winner.name}"
    if not loser.over_the_wire:
        return f"candidates measured over the wire take precedence, and its server was not measured: {loser.without_server}"
    for measure in _ORDER[objective]:
        if measure.of(loser.wire) is None and measure.of(winner.wire) is not None:
            return measure.text(loser.wire)
        times = measure.worse_by(loser.wire, winner.wire)
        if times > 1 and not measure.ties(loser.wire, winner.wire):
            return f"{measure.name}: {measure.text(loser.wire)}, {times_text(times)} times worse than {winner.name}"
    if not _maintained(loser) and _maintained(winner):
        return f"not measurably better than {winner.name}, and {loser.backend} gets no more security fixes"
    first = _ORDER[objective][0]
    return f"not measurably better than {winner.name}: {first.text(loser.wire)}"


def _best(candidates: Sequence[ConsideredCandidate], measure: _Measure) -> ConsideredCandidate:
    sign = -1 if measure.higher_is_better else 1
    values = [(sign * value, place) for place, c in enumerate(candidates) if (value := measure.of(c.wire)) is not None]
    return candidates[min(values)[1]] if values else candidates[0]
