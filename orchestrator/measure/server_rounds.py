"""Loads several running servers in turns: a scheduled segment and a saturated one each, round after round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from orchestrator.measure.measured_server import MeasuredServer, ServerError
from orchestrator.measure.session import MeasuredProcess, MeasureError
from orchestrator.measure.statistics import Verdict, settled, slo_verdict

__all__ = ["Contender", "LoadSettings", "Segment", "load_in_rounds", "verdict", "warm_up"]

_CONFIDENCE = 0.99
_EARLY_CONFIDENCE = 0.9999
"""A look before the last may end the measurement only at this confidence, which leaves the last look's claim as it is
(Haybittle and Peto's boundary for sequential tests)."""

_WARM_SECONDS, _WARM_WINDOWS = 0.3, 8
_ANSWERS = 120.0
_FEWEST = 20


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How servers are loaded.

    Attributes:
        rate: requests per second of the open loop; None: half of what the slowest reaches, at most `default_rate`.
        p99_limit: of the SLO, seconds; None: no verdict is wanted.
        deadline: of `time.monotonic`, when all must be done.
        samples: requests of the open loop for each server; enough to tell one over in a hundred from a few.
        samples_without_limit: the same where no verdict is wanted.
        rounds: into how many segments they are cut.
        connections: of the closed loop.
        saturated_seconds: of the closed loop, all rounds together.
    """

    rate: float | None
    p99_limit: float | None
    deadline: float
    default_rate: float = 100.0
    samples: int = 1400
    samples_without_limit: int = 400
    rounds: int = 4
    connections: int = 32
    saturated_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of load: latencies of what was answered, how late the generator was, and how long it took."""

    latencies: list[float]
    delays: list[float]
    errors: dict[str, int]
    seconds: float
    answered: int
    cpu_seconds: float


@dataclass(slots=True)
class Contender:
    """A running server and what is known of it; filled while measuring."""

    variant: str
    server: MeasuredServer
    load: MeasuredProcess
    capacity: float = 0.0
    warm_windows: list[float] = field(default_factory=list)
    scheduled: list[Segment] = field(default_factory=list)
    saturated: list[Segment] = field(default_factory=list)
    fate: str = "measured"
    reason: str = ""
    decided: bool = False

    @property
    def latencies(self) -> list[float]:
        """Of all scheduled requests that were answered, seconds."""
        return [latency for segment in self.scheduled for latency in segment.latencies]

    @property
    def errors(self) -> Counter[str]:
        """Of all requests after warming up."""
        return sum((Counter(s.errors) for s in [*self.scheduled, *self.saturated]), Counter[str]())


def warm_up(contender: Contender, connections: int) -> None:
    """Saturate the server until its mean latency settles; leaves the throughput of the last window."""
    for _ in range(_WARM_WINDOWS):
        segment = _load(contender, {"do": "saturate", "connections": connections, "seconds": _WARM_SECONDS})
        if segment is None or _failed(contender, segment):
            return
        contender.warm_windows.append(fmean(segment.latencies))
        contender.capacity = segment.answered / segment.seconds
        if settled(contender.warm_windows, tolerance=0.1):
            return


def load_in_rounds(contenders: Sequence[Contender], settings: LoadSettings, progress: Callable[..., None]) -> float:
    """Measure all contenders in turns; what fails leaves the rounds, and what is decided early does too.

    Args:
        contenders: warmed up.
        settings: how.
        progress: hears of every segment.

    Returns:
        The rate of the open loop, requests per second.
    """
    alive = [contender for contender in contenders if contender.fate == "measured"]
    rate = settings.rate or min(settings.default_rate, max(1.0, min((c.capacity for c in alive), default=2.0) / 2))
    wanted = settings.samples if settings.p99_limit is not None else settings.samples_without_limit
    for number in range(settings.rounds):
        alive = [contender for contender in alive if contender.fate == "measured" and not contender.decided]
        if not alive:
            break
        requests = _requests(wanted, rate, settings, rounds_left=settings.rounds - number, servers=len(alive))
        for contender in alive[number % len(alive) :] + alive[: number % len(alive)]:
            progress(
                f"round {number + 1} of {settings.rounds}, {rate:.0f} requests a second: {contender.variant}",
                0.4 + 0.6 * number / settings.rounds,
            )
            # The same schedule for all in a round, another one in the next.
            command = {"do": "schedule", "rate": rate, "requests": requests, "seed": number}
            segment = _load(contender, command)
            if segment is None:
                continue
            contender.scheduled.append(segment)
            if _failed(contender, segment):
                continue
            seconds = settings.saturated_seconds / settings.rounds
            closed = {"do": "saturate", "connections": settings.connections, "seconds": seconds}
            if (segment := _load(contender, closed)) is None:
                continue
            contender.saturated.append(segment)
            if not _failed(contender, segment) and settings.p99_limit is not None:
                early = slo_verdict(contender.latencies, settings.p99_limit, confidence=_EARLY_CONFIDENCE)
                contender.decided = early.status != "inconclusive"
    return rate


def verdict(contender: Contender, limit: float) -> Verdict:
    """Whether the 99th percentile at the rate lies within the limit, at 99 %."""
    return slo_verdict(contender.latencies, limit, confidence=_CONFIDENCE)


def _requests(wanted: int, rate: float, settings: LoadSettings, *, rounds_left: int, servers: int) -> int:
    """Requests of one segment: its part of what is wanted, or what the time that is left allows."""
    left = max(0.0, settings.deadline - time.monotonic()) / (rounds_left * servers)
    seconds = left - settings.saturated_seconds / settings.rounds
    return max(_FEWEST, min(-(-wanted // settings.rounds), int(seconds * rate)))


def _load(contender: Contender, command: dict[str, Any]) -> Segment | None:
    """One segment; None when the server or the generator is gone, and then the contender says why."""
    before = contender.server.cpu_seconds()
    try:
        reply = contender.load.ask(command, _ANSWERS + command.get("requests", 0) / command.get("rate", 1.0))
        contender.server.check()
    except ServerError as error:
        contender.fate, contender.reason = error.fate, str(error)
        return None
    except MeasureError as error:
        contender.fate, contender.reason = "failed", f"the load generator failed: {error.message}"
        return None
    return Segment(**reply, cpu_seconds=contender.server.cpu_seconds() - before)


def _failed(contender: Contender, segment: Segment) -> bool:
    """A server that does not answer every request is no candidate, however fast its answers are."""
    if not segment.errors:
        return False
    number = sum(segment.errors.values())
    commonest = max(segment.errors, key=lambda text: segment.errors[text])
    contender.fate = "failed"
    contender.reason = f"{number} of {number + len(segment.latencies)} requests failed: {commonest}"
    return True
