"""Loads several running servers in interleaved rounds, each with a scheduled and a saturated segment."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any, Protocol

from orchestrator.artifacts.server_report import GeneratorLimit, ServerFate, WireResult
from orchestrator.diagnostics import Diagnostic
from orchestrator.machine.cpu_use import CpuTime
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import QuantileTest, percentile, quantile_test, settled
from orchestrator.spec.types import Wire
from orchestrator.steps.context import Ending

__all__ = [
    "FoundKnee",
    "LoadSettings",
    "LoadedServer",
    "RunningServer",
    "Segment",
    "disturbed",
    "failed",
    "generator_failed",
    "generator_late",
    "interim_level",
    "load_in_rounds",
    "no_answer",
    "other_wires",
    "p99_test",
    "probe",
    "schedule",
    "warm_up",
    "warm_windows_settled",
]

_CONFIDENCE = 0.99
_EARLY_CONFIDENCE = 0.9999
"""Before the last round, the measurement may only end at this confidence, which keeps the confidence of the final test
(Haybittle and Peto's boundary for sequential tests)."""

_WARM_SECONDS, _WARM_WINDOWS = 0.3, 8
_WARM_SHARE = 0.1
"""The part of a server's time for which it may warm up."""

_PROBE_SECONDS, _PROBE_ANSWERS = 0.05, 2
_PROBE_TURNS = 3
"""How often single calls over each wire are timed, if there are several."""

_LONG_CALL = 0.5
"""Seconds; calls that take longer are timed in one turn."""

_HARDLY = 1.1
_OTHER_SECONDS = 0.3
"""Of saturation over a wire that the server is not loaded over."""

_CYCLE_SHARE = 1 / 60
"""The part of a server's time in which all connections of a closed loop together should get one answer each, one after the
other: a slow model is loaded with fewer connections. Two are always kept busy, so that the server never waits for one."""

_CYCLES = 2
"""A closed loop lasts until each connection can have had this many answers."""

_SATURATED_SHARE = 0.35
"""The part of the time of a round that the closed loop may take."""

_TIMEOUT, _TIMEOUT_CALLS = 10.0, 10
"""A request may wait for its answer for this many seconds, and for this many times a single call's."""

_PROBE_TIMEOUT = 60.0
_ANSWERS = 120.0

_SHORTEST, _MOST = 2.0, 20_000
"""An open-loop segment lasts at least this many seconds, because a growing queue takes time to show; and it has at most
this many requests, more than the generator can send in that time."""

_DISTURBED = 0.1
"""If other processes use more than this part of the server's CPUs, a limit may be missed because of them."""

_LATE = 0.05
"""If the generator's own delays exceed this fraction of the limit, a missed limit may be the generator's fault."""


class RunningServer(Protocol):
    """A server that can be loaded: one that was started to be measured, or one that runs anyway."""

    @property
    def host(self) -> str:
        """Where it listens."""

    @property
    def port(self) -> int:
        """For HTTP."""

    @property
    def grpc_port(self) -> int:
        """For gRPC; 0 if it offers none."""

    @property
    def peak(self) -> int:
        """The peak resident memory of its processes, bytes; 0 if that cannot be seen."""

    def cpu_seconds(self) -> float:
        """CPU time that it has used so far; 0 if that cannot be seen."""

    def check(self) -> None:
        """Check that it is still running, as far as can be seen.

        Raises:
            MeasureError: it ran out of memory or exited.
        """


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How servers are loaded.

    Attributes:
        rate: requests per second of the open loop; None: half of what the slowest server reaches, at most `default_rate`.
        p99_limit: of the SLO, seconds; None: no verdict.
        deadline: when everything must be done, by `clock`.
        samples: requests of the open loop for each server; enough to prove a 99th percentile.
        samples_without_limit: the same if there is no limit.
        rounds: the number of segments that the samples are divided into.
        connections: of the closed loop, at most.
        saturated_seconds: of the closed loop, for all rounds together, at least.
        clock: the time, seconds.
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
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.deadline - self.clock())


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of load: the reply of `orchestrator.measure.load`, and the CPU time that the server used for it.

    Attributes:
        others: the part of the server's CPUs that neither it nor its load used meanwhile; None where that is not known.
    """

    latencies: list[float]
    sent: list[float]
    delays: list[float]
    refused: dict[str, int]
    errors: dict[str, int]
    seconds: float
    answered: int
    generator_cpu_seconds: float
    cpu_seconds: float
    others: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other processes used so much that slow answers may be theirs."""
        return self.others is not None and self.others > _DISTURBED


@dataclass(frozen=True, slots=True)
class FoundKnee:
    """The largest rate that was proven, and what was measured at it.

    Attributes:
        rate: requests per second.
        level: of the limit on the latency.
        latencies: of all requests at this rate, seconds; infinite for refused ones.
        cpus: that the server used.
        unsearched: what ended the search before the largest rate was found; else empty.
    """

    rate: float
    level: QuantileTest
    latencies: Sequence[float]
    cpus: float
    unsearched: str = ""


@dataclass(slots=True)
class LoadedServer:
    """A running server and its measurements; filled while measuring.

    Attributes:
        candidate: whose server it is.
        server: the server.
        load: its load generator, which has the requests of each wire.
        wires: what is known of each wire that may be used.
        wire: the one over which the server is loaded.
        allowed: the wires that it may be loaded over; the others are only timed.
        generator: what the generator reaches by itself.
        call: the median of single calls, seconds.
        connections: of the closed loop.
        timeout: seconds until a request counts as refused.
        capacity: requests per second under saturation; never 0.
        settled_rate: of the last window of the warm-up; None if it had too few answers.
        knee: the largest rate at which the limit on the latency is proven; None if there is no limit, or `no_knee` says why.
        cpu_time: of the CPUs that the server runs on; None where that is not known.
        shares_cpus: whether its load generator runs on the same.
        again: how many segments were measured again, since other processes had disturbed them.
    """

    candidate: str
    server: RunningServer
    load: MeasuredProcess
    wires: dict[Wire, WireResult]
    wire: Wire
    allowed: Collection[Wire]
    generator: GeneratorLimit | None = None
    call: float = 0.0
    connections: int = 1
    timeout: float = _PROBE_TIMEOUT
    capacity: float = 1.0
    settled_rate: float | None = None
    warm_windows: list[float] = field(default_factory=list)
    scheduled: list[Segment] = field(default_factory=list)
    saturated: list[Segment] = field(default_factory=list)
    failure: MeasureError | None = None
    level: str = "inconclusive"
    knee: FoundKnee | None = None
    no_knee: str = ""
    cpu_time: Callable[[], CpuTime | None] = lambda: None
    shares_cpus: bool = True
    again: int = 0

    @property
    def fate(self) -> ServerFate:
        """Of its candidate."""
        return "measured" if self.failure is None else self.failure.fate

    @property
    def latencies(self) -> list[float]:
        """Of all scheduled requests, seconds; infinite for refused ones."""
        return self._open_loop("latencies")

    @property
    def sent(self) -> list[float]:
        """The same, without the delays of the generator."""
        return self._open_loop("sent")

    @property
    def undisturbed(self) -> list[float]:
        """The latencies of the segments that other processes did not disturb."""
        quiet = [segment for segment in self.scheduled if not segment.disturbed]
        refused = sum(sum(segment.refused.values()) for segment in quiet)
        return [latency for segment in quiet for latency in segment.latencies] + [math.inf] * refused

    @property
    def delays(self) -> list[float]:
        """How late the generator sent the scheduled requests, seconds."""
        return [delay for segment in self.scheduled for delay in segment.delays]

    @property
    def refused(self) -> Counter[str]:
        """Scheduled requests that the server refused as too busy."""
        return sum((Counter(segment.refused) for segment in self.scheduled), Counter[str]())

    @property
    def errors(self) -> Counter[str]:
        """Errors of all requests after warming up."""
        return sum((Counter(s.errors) for s in [*self.scheduled, *self.saturated]), Counter[str]())

    def _open_loop(self, name: str) -> list[float]:
        answered = [latency for segment in self.scheduled for latency in getattr(segment, name)]
        return answered + [math.inf] * self.refused.total()


def probe(loaded: LoadedServer, settings: LoadSettings, servers: int) -> None:
    """Time single calls, and decide by them how the server is loaded: the wire, the time-out, the connections of the closed loop.

    Args:
        loaded: just started.
        settings: of the load.
        servers: how many share the time that is left.
    """
    time_for_one = settings.left() / servers
    found = _call_times(loaded)
    if loaded.failure is not None:
        return
    loaded.wires = {wire: each.model_copy(update={"call": found.get(wire)}) for wire, each in loaded.wires.items()}
    loaded.wire = _fastest({wire: call for wire, call in found.items() if wire in loaded.allowed})
    loaded.call = found[loaded.wire]
    loaded.timeout = max(_TIMEOUT, _TIMEOUT_CALLS * loaded.call)
    at_once = int(time_for_one * _CYCLE_SHARE / loaded.call) if loaded.call else settings.connections
    loaded.connections = min(settings.connections, max(2, at_once))
    loaded.capacity = 1 / loaded.call  # until more is known: it answers one request after the other


def _call_times(loaded: LoadedServer) -> dict[Wire, float]:
    """The median time of single calls over each wire, in turns; `loaded` fails if no wire that it may use has one.

    A wire over which a call fails is refused from then on.
    """
    times: dict[Wire, list[float]] = {}
    usable = [wire for wire, each in loaded.wires.items() if not each.refused]
    for _ in range(_PROBE_TURNS if len(usable) > 1 else 1):
        for wire in list(usable):
            loaded.wire = wire
            segment = _saturate(loaded, 1, _PROBE_SECONDS, _PROBE_ANSWERS, at_most=_ANSWERS)
            if segment is None:
                return {}
            if not segment.errors and segment.latencies:
                times.setdefault(wire, []).extend(segment.latencies)
                continue
            usable.remove(wire)
            times.pop(wire, None)
            if not any(other in loaded.allowed for other in usable):
                if not failed(loaded, segment):
                    loaded.failure = no_answer(segment)
                return {}
            loaded.wires[wire] = loaded.wires[wire].model_copy(update={"refused": _why(segment)})
        if max(median(each) for each in times.values()) > _LONG_CALL:
            break
    return {wire: median(each) for wire, each in times.items()}


def _fastest(calls: Mapping[Wire, float]) -> Wire:
    """The wire with the shortest call; an earlier one, which more clients have, if it takes hardly longer."""
    least = min(calls.values())
    return next(wire for wire, call in calls.items() if call <= least * _HARDLY)


def other_wires(loaded: LoadedServer) -> None:
    """Saturate the server for a moment over each wire that it is not loaded over, so that the report can compare them."""
    chosen = loaded.wire
    for wire, each in loaded.wires.items():
        if wire == chosen or each.call is None or loaded.fate != "measured":
            continue
        loaded.wire = wire
        at_most = max(_OTHER_SECONDS, _CYCLES * loaded.connections * each.call)
        segment = _saturate(loaded, loaded.connections, _OTHER_SECONDS, loaded.connections, at_most=at_most)
        if segment is not None and segment.errors:  # these are no requests of clients, so the candidate does not fail
            loaded.wires[wire] = each.model_copy(update={"refused": _why(segment)})
        elif segment is not None and segment.answered:
            rate = segment.answered / segment.seconds
            loaded.wires[wire] = each.model_copy(update={"connections": loaded.connections, "rows_per_second": rate})
    loaded.wire = chosen


def warm_up(loaded: LoadedServer, settings: LoadSettings, servers: int) -> None:
    """Saturate the server until its mean latency settles; sets `capacity` to the throughput of the last window.

    Args:
        loaded: after `probe`.
        settings: of the load.
        servers: how many share the time that is left.
    """
    if loaded.failure is not None:
        return
    ends = settings.clock() + settings.left() / servers * _WARM_SHARE
    for _ in range(_WARM_WINDOWS):
        answers = _CYCLES * loaded.connections
        at_most = max(_WARM_SECONDS, ends - settings.clock())
        segment = _saturate(loaded, loaded.connections, _WARM_SECONDS, answers, at_most=at_most)
        if segment is None or failed(loaded, segment):
            return
        if segment.latencies:
            loaded.warm_windows.append(fmean(segment.latencies))
        if segment.answered:
            loaded.capacity = loaded.settled_rate = segment.answered / segment.seconds
        if warm_windows_settled(loaded.warm_windows) or settings.clock() > ends:
            break
    if not loaded.warm_windows:
        loaded.failure = no_answer()


def warm_windows_settled(windows: Sequence[float]) -> bool:
    """Whether a server's warm-up settled; saturated windows vary more than single calls, so the tolerance is larger."""
    return settled(windows, tolerance=0.1)


def load_in_rounds(servers: Sequence[LoadedServer], settings: LoadSettings, progress: Callable[..., None]) -> float:
    """Measure all servers in interleaved rounds; servers that fail or are decided early are not loaded any more.

    Args:
        servers: warmed up.
        settings: of the load.
        progress: called before every segment.

    Returns:
        The rate of the open loop, requests per second.
    """
    alive = [loaded for loaded in servers if loaded.fate == "measured"]
    rate = settings.rate or min([settings.default_rate, *(loaded.capacity / 2 for loaded in alive)])
    rounds = _rounds(settings, alive)
    for number in range(rounds):
        alive = [loaded for loaded in alive if loaded.fate == "measured" and loaded.level != "missed"]
        # A server that meets the limit is measured on while another is undecided: the two will be compared, so both are
        # measured for the same time.
        if all(loaded.level == "met" for loaded in alive):
            break
        time_for_one = settings.left() / ((rounds - number) * len(alive))
        requests = _requests(rate, settings, rounds, time_for_one, alive)
        for loaded in alive[number % len(alive) :] + alive[: number % len(alive)]:
            progress(
                f"round {number + 1} of {rounds}, {rate:.3g} requests per second: {loaded.candidate}",
                0.4 + 0.6 * number / rounds,
            )
            # The same schedule for all servers in a round, another one in the next.
            segment = schedule(loaded, rate, requests, number)
            if segment is None:
                continue
            loaded.scheduled.append(segment)
            if failed(loaded, segment):
                continue
            seconds = settings.saturated_seconds / rounds
            at_most = max(seconds, _SATURATED_SHARE * time_for_one)
            answers = _CYCLES * loaded.connections
            if (segment := _saturate(loaded, loaded.connections, seconds, answers, at_most=at_most)) is None:
                continue
            loaded.saturated.append(segment)
            if not failed(loaded, segment) and settings.p99_limit is not None:
                loaded.level = interim_level(loaded, settings.p99_limit)
    return rate


def interim_level(loaded: LoadedServer, limit: float) -> str:
    """The level while the measurement may go on: at the higher confidence, and never missed because of something else."""
    early = quantile_test(loaded.latencies, limit, confidence=_EARLY_CONFIDENCE).status
    # A late generator, or what other processes disturb, may be better in the next round; what is met in spite of it is met.
    if early == "missed" and (generator_late(loaded, limit) or disturbed(loaded, limit)):
        return "inconclusive"
    return early


def schedule(loaded: LoadedServer, rate: float, requests: int, seed: int) -> Segment | None:
    """One segment of the open loop; None if the server or the generator failed, and then `loaded` has the failure.

    Args:
        loaded: the server.
        rate: requests per second.
        requests: their number.
        seed: of the random times at which they are due.
    """
    return _load(loaded, {"do": "schedule", "rate": rate, "requests": requests, "seed": seed}, requests / rate)


def p99_test(loaded: LoadedServer, limit: float) -> QuantileTest:
    """Whether the 99th percentile at the rate is within the limit, at 99 % confidence."""
    return quantile_test(loaded.latencies, limit, confidence=_CONFIDENCE)


def generator_late(loaded: LoadedServer, limit: float) -> bool:
    """Whether a missed limit may be the load generator's fault.

    Its delays are part of the latencies, so a limit that is met is met in spite of them. If the limit is missed without
    the delays too, it is the server's fault.
    """
    if not loaded.delays or percentile(loaded.delays, 0.99) <= _LATE * limit:
        return False
    return quantile_test(loaded.sent, limit, confidence=_CONFIDENCE).status != "missed"


def disturbed(loaded: LoadedServer, limit: float) -> bool:
    """Whether a limit may be missed because of other processes: it is not missed in what they left undisturbed."""
    if not any(segment.disturbed for segment in loaded.scheduled):
        return False
    quiet = loaded.undisturbed
    return not quiet or quantile_test(quiet, limit, confidence=_CONFIDENCE).status != "missed"


def _rounds(settings: LoadSettings, alive: Sequence[LoadedServer]) -> int:
    """As many as wanted, but fewer where the time of a round would be too short for the closed loop of a slow model."""
    if not alive:
        return 0
    closed = _SATURATED_SHARE * settings.left() / len(alive)
    return max(1, min(settings.rounds, *(int(closed / _saturated_seconds(loaded)) for loaded in alive)))


def _requests(
    rate: float, settings: LoadSettings, rounds: int, time_for_one: float, alive: Sequence[LoadedServer]
) -> int:
    """Requests of one segment: its share of the wanted samples for long enough, or as many as the remaining time allows."""
    wanted = settings.samples if settings.p99_limit is not None else settings.samples_without_limit
    saturated = max(settings.saturated_seconds / rounds, *(_saturated_seconds(loaded) for loaded in alive))
    seconds = time_for_one - min(saturated, _SATURATED_SHARE * time_for_one)
    # Above its capacity, a server takes longer than the schedule.
    answered = min(rate, *(loaded.capacity for loaded in alive))
    enough = max(-(-wanted // rounds), min(_MOST, math.ceil(_SHORTEST * rate)))
    return max(1, min(enough, int(seconds * answered)))


def _saturated_seconds(loaded: LoadedServer) -> float:
    """How long a closed loop lasts: until each connection had its answers, and one more before them."""
    return (_CYCLES + 1) * loaded.connections / loaded.capacity


def _saturate(
    loaded: LoadedServer, connections: int, seconds: float, answers: int, *, at_most: float
) -> Segment | None:
    command = {
        "do": "saturate",
        "connections": connections,
        "seconds": seconds,
        "answers": answers,
        "at_most": at_most,
    }
    return _load(loaded, command, at_most)


def _load(loaded: LoadedServer, command: dict[str, Any], seconds: float) -> Segment | None:
    """One segment; None if the server or the generator failed, and then `loaded` has the failure."""
    before, busy_before, own = loaded.server.cpu_seconds(), loaded.cpu_time(), time.process_time()
    try:
        server = loaded.server
        where = {"host": server.host, "port": server.grpc_port if loaded.wire == "grpc" else server.port}
        command = {**command, **where, "wire": loaded.wire, "timeout": loaded.timeout}
        reply = loaded.load.ask(command, seconds + loaded.timeout + _ANSWERS)
    except MeasureError as error:
        loaded.failure = generator_failed(error)
        return None
    try:
        loaded.server.check()
    except MeasureError as error:
        loaded.failure = error
        return None
    used = loaded.server.cpu_seconds() - before
    beside = reply["generator_cpu_seconds"] if loaded.shares_cpus else 0.0
    known = used + beside + time.process_time() - own
    return Segment(**reply, cpu_seconds=used, others=_others(busy_before, loaded.cpu_time(), known))


def _others(before: CpuTime | None, after: CpuTime | None, known: float) -> float | None:
    """The part of the CPUs that was used besides what is known, CPU seconds."""
    if before is None or after is None or after.total <= before.total:
        return None
    return max(0.0, after.busy - before.busy - known) / (after.total - before.total)


def failed(loaded: LoadedServer, segment: Segment) -> bool:
    """Whether requests failed; then the candidate fails too, no matter how fast its other answers are."""
    if not segment.errors:
        return False
    commonest = max(segment.errors, key=lambda text: segment.errors[text])
    number = sum(segment.errors.values())
    requests = number + len(segment.latencies) + sum(segment.refused.values())
    error = Diagnostic("E612", f"{number} of {requests} requests failed", cause=commonest)
    loaded.failure = MeasureError(Ending.EXCEPTION, error)
    return True


def _why(segment: Segment) -> str:
    """Why there are no answers: what most requests ended with."""
    ended = {**segment.refused, **segment.errors}
    return max(ended, key=lambda text: ended[text]) if ended else "no answer"


def no_answer(segment: Segment | None = None) -> MeasureError:
    """The failure of a server that answers nothing; the segment tells what it refused."""
    refused = {} if segment is None else segment.refused
    cause = ", ".join(f"it refused {count} with: {reason}" for reason, count in sorted(refused.items()))
    return MeasureError(Ending.EXCEPTION, Diagnostic("E612", "its server answered no request under load", cause=cause))


def generator_failed(error: MeasureError) -> MeasureError:
    """The failure of the load generator, which is not that of the server: whatever it was, the candidate only failed."""
    diagnostic = replace(error.diagnostic, message=f"the load generator failed: {error.diagnostic.message}")
    return MeasureError(Ending.EXCEPTION, diagnostic)
