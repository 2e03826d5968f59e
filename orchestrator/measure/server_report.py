"""Computes the server benchmark's report from the raw latencies. Documented in docs/measuring.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.artifacts.server_report import (
    GeneratorDelay,
    ImageSizes,
    Knee,
    MeasuredLevel,
    MeasuredProgram,
    OpenLoop,
    OtherProcesses,
    P99Level,
    Saturation,
    ServerFate,
    ServerMeasurement,
    ServerSettings,
    ServerWarmUp,
    ThroughputLevel,
)
from orchestrator.diagnostics import Diagnostic
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.generator_limit import may_limit
from orchestrator.measure.server_rounds import (
    LoadedServer,
    LoadSettings,
    Segment,
    disturbed,
    generator_late,
    no_answer,
    p99_test,
    warm_windows_settled,
)
from orchestrator.measure.statistics import TAIL, percentile_interval, summarize

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "ServerResult",
    "StartedServer",
    "knee_of",
    "level_of",
    "open_loop_of",
    "raw_arrays",
    "saturation_of",
    "server_result",
]

_FEWEST_ANSWERS = 3
"""Fewer answers say nothing about a throughput."""

_LONGER = "raise `optimize.time_budget`"

_SUSTAINED = 0.95
"""A rate is sustained if this fraction of it is answered; it is below 1 because the last answers come after the last
request."""


@dataclass(frozen=True, slots=True)
class StartedServer:
    """How a server started; times in seconds."""

    settings: ServerSettings
    program: MeasuredProgram | None
    ready_seconds: float
    first_request_seconds: float
    inside: Literal["process", "container"] = "process"
    image: ImageSizes | None = None


@dataclass(frozen=True, slots=True)
class ServerResult:
    """The result of one server for the report; see `CandidateServerResult`."""

    fate: ServerFate
    reason: str
    settings: ServerSettings | None
    measured: ServerMeasurement | None = None
    error: Diagnostic | None = None

    @classmethod
    def failed(cls, error: MeasureError, settings: ServerSettings) -> ServerResult:
        """The result of a server that failed."""
        return cls(error.fate, error.diagnostic.sentence, settings, error=error.diagnostic)


def server_result(
    loaded: LoadedServer, started: StartedServer, load: LoadSettings, rate: float | None, throughput: float | None
) -> ServerResult:
    """The result of one server.

    Args:
        loaded: the server after the load; it may have failed.
        started: how it started.
        load: the settings of the load.
        rate: of the open loop, requests per second; None if no server was loaded.
        throughput: of the SLO, requests per second.
    """
    if loaded.failure is not None:
        return ServerResult.failed(loaded.failure, started.settings)
    if rate is None or not any(segment.latencies for segment in loaded.saturated):
        return ServerResult.failed(no_answer(), started.settings)
    saturation = saturation_of(loaded)
    measured = ServerMeasurement(
        wire=loaded.wire,
        wires=tuple(loaded.wires.values()),
        settings=started.settings,
        inside=started.inside,
        image=started.image,
        program=started.program,
        ready_seconds=started.ready_seconds,
        first_request_seconds=started.first_request_seconds,
        peak_rss=loaded.server.peak,
        warm_up=ServerWarmUp(
            settled=warm_windows_settled(loaded.warm_windows),
            windows=len(loaded.warm_windows),
            requests_per_second=loaded.settled_rate,
        ),
        generator=loaded.generator,
        refused=dict(loaded.refused),
        open_loop=open_loop_of(loaded, rate),
        saturation=saturation,
        slo=level_of(loaded, load.p99_limit, throughput, saturation),
        knee=None if load.p99_limit is None else knee_of(loaded, load.p99_limit),
        longest_request=max(
            seconds for one in [*loaded.scheduled, *loaded.saturated] for seconds in one.latencies or (0.0,)
        ),
        others=_others(loaded),
    )
    return ServerResult("measured", "", started.settings, measured)


def _others(loaded: LoadedServer) -> OtherProcesses | None:
    shares = [segment.others for segment in loaded.scheduled if segment.others is not None]
    if not shares:
        return None
    return OtherProcesses(
        cpus=sum(shares) / len(shares),
        disturbed=sum(segment.disturbed for segment in loaded.scheduled),
        again=loaded.again,
    )


def level_of(
    loaded: LoadedServer, p99_limit: float | None, throughput: float | None, saturation: Saturation | NotMeasured
) -> MeasuredLevel:
    """Whether a loaded server meets a service level: seconds, and requests per second."""
    late = p99_limit is not None and generator_late(loaded, p99_limit)
    return MeasuredLevel(
        p99=None if p99_limit is None else _p99(loaded, p99_limit, late=late),
        throughput=None if throughput is None else _throughput(throughput, loaded, saturation, late=late),
    )


def open_loop_of(loaded: LoadedServer, rate: float, longer: str = _LONGER) -> OpenLoop | NotMeasured:
    """The latencies of all requests that were sent on a schedule, at a rate per second; `longer` says how to get more time."""
    known = loaded.latencies
    if not known:
        return NotMeasured(reason=f"no request was sent at {rate:.3g}/s within the time; {longer}")
    latencies = _at_most_waited(loaded, known)
    delays = summarize(loaded.delays)
    return OpenLoop(
        **asdict(summarize(latencies)),
        rate=rate,
        segments=len(loaded.scheduled),
        p99_interval=percentile_interval(latencies, 0.99),
        slowest=tuple(sorted(latencies, reverse=True)[:TAIL]),
        generator_delay=GeneratorDelay(p50=delays.p50, p99=delays.p99),
        cpus=sum(segment.cpu_seconds for segment in loaded.scheduled) / sum(s.seconds for s in loaded.scheduled),
    )


def _at_most_waited(loaded: LoadedServer, known: Sequence[float]) -> list[float]:
    """Latencies in which a refused request counts as long as one may wait for an answer."""
    worst = max(loaded.timeout, *(latency for latency in known if math.isfinite(latency)), 0.0)
    return [min(latency, worst) for latency in known]


def knee_of(loaded: LoadedServer, limit: float) -> Knee | NotMeasured:
    """The largest rate at which a limit on the latency, seconds, was proven."""
    found = loaded.knee
    if found is None:
        return NotMeasured(reason=loaded.no_knee)
    level = P99Level(
        status=found.level.status,
        samples=found.level.samples,
        over=found.level.over,
        samples_wanted=found.level.samples_wanted,
        limit=limit,
        quantile=0.99,
        confidence=0.99,
        generator_late=False,
        disturbed=False,
    )
    times = summarize(_at_most_waited(loaded, found.latencies))
    return Knee(**asdict(times), rate=found.rate, level=level, cpus=found.cpus, unsearched=found.unsearched)


def saturation_of(loaded: LoadedServer, longer: str = _LONGER) -> Saturation | NotMeasured:
    """What all segments with saturation reached; `longer` says how to get more time."""
    answered = sum(segment.answered for segment in loaded.saturated)
    seconds = sum(segment.seconds for segment in loaded.saturated)
    finished = sum(len(segment.latencies) for segment in loaded.saturated)
    if answered < _FEWEST_ANSWERS:
        return NotMeasured(reason=f"only {finished} answers came in the time, too few for a throughput; {longer}")
    counted = [segment for segment in loaded.saturated if segment.answered]
    rate = answered / seconds
    cpu_seconds = sum(segment.cpu_seconds for segment in loaded.saturated)
    return Saturation(
        **asdict(summarize([latency for segment in loaded.saturated for latency in segment.latencies])),
        connections=loaded.connections,
        seconds=seconds,
        answered=answered,
        at_least=rate,
        rows_per_second=None if may_limit(loaded.generator, rate) else rate,
        # CPU time includes requests in flight at the end, so it is divided by all finished requests.
        cpu_seconds_per_request=cpu_seconds / finished if cpu_seconds else None,
        generator_cpu_seconds_per_request=sum(s.generator_cpu_seconds for s in loaded.saturated) / finished,
        by_segment=tuple(segment.answered / segment.seconds for segment in counted),
        cpu_by_segment=tuple(segment.cpu_seconds / len(segment.latencies) for segment in counted),
    )


def _p99(loaded: LoadedServer, limit: float, *, late: bool) -> P99Level:
    """The test of the limit; inconclusive if it may have been missed because of the load generator or of other processes."""
    found = p99_test(loaded, limit)
    unproven = late and found.status == "missed"
    by_others = found.status == "missed" and disturbed(loaded, limit)
    return P99Level(
        status="inconclusive" if unproven or by_others else found.status,
        samples=found.samples,
        over=found.over,
        samples_wanted=found.samples_wanted,
        limit=limit,
        quantile=0.99,
        confidence=0.99,
        generator_late=unproven,
        disturbed=by_others,
    )


def _throughput(
    wanted: float, loaded: LoadedServer, saturation: Saturation | NotMeasured, *, late: bool
) -> ThroughputLevel:
    """Whether the wanted rate is sustained, by the answers in the open loop or by saturation."""
    saturated = saturation.at_least if isinstance(saturation, Saturation) else 0.0
    limited = isinstance(saturation, Saturation) and saturation.rows_per_second is None
    sustained = _answer_rate(loaded.scheduled)
    met = saturated >= wanted or sustained >= _SUSTAINED * wanted
    return ThroughputLevel(
        wanted=wanted,
        reached=max(saturated, sustained),
        met=met,
        generator_late=late and not met,
        generator_limited=limited and not met,
        disturbed=not met and _saturated_beside_others(loaded, wanted),
    )


def _saturated_beside_others(loaded: LoadedServer, wanted: float) -> bool:
    """Whether a rate may be missed because of other processes: it is reached in what they left undisturbed, or nothing is."""
    quiet = [segment for segment in loaded.saturated if not segment.disturbed]
    if len(quiet) == len(loaded.saturated):
        return False
    seconds = sum(segment.seconds for segment in quiet if segment.answered)
    return not seconds or sum(segment.answered for segment in quiet) >= wanted * seconds


def _answer_rate(segments: list[Segment]) -> float:
    """Answers per second in the open loop, up to the last one; the shortest latency is subtracted from each segment."""
    answered = sum(segment.answered for segment in segments)
    seconds = sum(segment.seconds - min(segment.latencies, default=0.0) for segment in segments)
    return answered / seconds if seconds > 0 else 0.0


def raw_arrays(servers: Mapping[str, LoadedServer]) -> dict[str, np.ndarray[Any, Any]]:
    """All latencies, seconds, for `raw.npz`.

    `CANDIDATE.open.seconds` and `CANDIDATE.open.segment`, `CANDIDATE.saturated.seconds` and `CANDIDATE.saturated.segment`.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, loaded in servers.items():
        for load, segments in (("open", loaded.scheduled), ("saturated", loaded.saturated)):
            arrays[f"{name}.{load}.seconds"] = np.array([s for one in segments for s in one.latencies], np.float64)
            arrays[f"{name}.{load}.segment"] = np.array(
                [number for number, one in enumerate(segments) for _ in one.latencies], np.int32
            )
    return arrays
