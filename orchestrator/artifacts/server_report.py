"""The document that `benchmark.server` leaves: the finalists in their real servers, over the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.measurement import MeasuredOn, Objective, Times, WarmUp
from orchestrator.spec.strict import Strict

__all__ = [
    "CandidateServerResult",
    "GeneratorDelay",
    "LoadGenerator",
    "MeasuredLevel",
    "MeasuredProgram",
    "OpenLoop",
    "P99Level",
    "Saturation",
    "ServerFate",
    "ServerMeasurement",
    "ServerReport",
    "ServerSettings",
    "ServerWarmUp",
    "ServiceLevel",
    "ThroughputLevel",
]

ServerFate = Literal["measured", "not a finalist", "no server", "out of memory", "failed"]
"""How far a candidate came in the server benchmark; with `no server` here its runtime is all that can be measured."""


class ServiceLevel(Strict):
    """The spec's `slo`: seconds, and requests per second; None where nothing is asked for."""

    p99_latency: float | None
    throughput: float | None


class ServerSettings(Strict):
    """What a server is started with.

    Attributes:
        max_batch_size: rows that it puts together at most.
        max_delay: seconds that a request waits for others at most.
    """

    max_batch_size: int
    max_delay: float


class MeasuredProgram(Strict):
    """The program or image that a server ran in, where no Python package brings it.

    Attributes:
        version: as the program says it, or the image's id.
        rendered: whether rendered images have this version.
    """

    name: str
    version: str
    rendered: bool


class ServerWarmUp(WarmUp):
    """How a server's warm-up went, with the throughput of its last window."""

    requests_per_second: float


class GeneratorDelay(Strict):
    """How late the load generator sent its requests, seconds; part of the latencies."""

    p50: float
    p99: float


class OpenLoop(Times):
    """Requests at a rate, whatever becomes of the earlier ones; latency counts from the time that each was due.

    Attributes:
        rate: requests per second.
        p99_interval: its 95 % confidence interval; no upper end where the samples are too few.
    """

    rate: float
    segments: int
    p99_interval: tuple[float, float | None]
    generator_delay: GeneratorDelay


class Saturation(Times):
    """Connections that send their next request when the last one is answered.

    Attributes:
        seconds: of all segments.
        answered: within that time.
        by_segment: rows per second of each.
        cpu_by_segment: CPU seconds for a request of each.
    """

    connections: int
    seconds: float
    answered: int
    rows_per_second: float
    cpu_seconds_per_request: float
    by_segment: tuple[float, ...]
    cpu_by_segment: tuple[float, ...]


class P99Level(Strict):
    """Whether a quantile of the latencies lies within the limit; see `orchestrator.measure.statistics.Verdict`.

    Attributes:
        limit: seconds.
        generator_late: a miss is not proven, since the load generator sent its requests late.
    """

    status: Literal["met", "missed", "inconclusive"]
    samples: int
    over: int
    samples_wanted: int
    limit: float
    quantile: float
    confidence: float
    generator_late: bool


class ThroughputLevel(Strict):
    """Whether the wanted rate is carried, requests per second.

    Attributes:
        generator_late: a miss is not proven, since the load generator sent its requests late.
    """

    wanted: float
    reached: float
    met: bool
    generator_late: bool


class MeasuredLevel(Strict):
    """The service level as measured; None for a part that is not asked for."""

    p99: P99Level | None
    throughput: ThroughputLevel | None


class ServerMeasurement(Strict):
    """The numbers of one server, measured to the end.

    Attributes:
        settings: what it was started with.
        program: None where a Python package is the server.
        ready_seconds: from the start to ready.
        first_request_seconds: of the first request, whose answer was checked.
        peak_rss: of all its processes together, bytes.
        refused: why the server was too busy → how many requests of the open loop.
    """

    settings: ServerSettings
    program: MeasuredProgram | None
    ready_seconds: float
    first_request_seconds: float
    peak_rss: int
    warm_up: ServerWarmUp
    refused: Mapping[str, int]
    open_loop: OpenLoop
    saturation: Saturation
    slo: MeasuredLevel


class CandidateServerResult(CandidateIdentity):
    """What became of one candidate.

    Attributes:
        reason: a sentence without a full stop; empty where it was measured.
        settings: what its server is started with, whether or not there is one here; None where none is wanted.
        measured: None unless that is its fate.
    """

    fate: ServerFate
    reason: str
    settings: ServerSettings | None
    measured: ServerMeasurement | None


class LoadGenerator(Strict):
    """Where the load generator ran.

    Attributes:
        cpus: how many it had.
        shares_cpus: with the servers, since the machine has no other CPUs.
    """

    cpus: int
    shares_cpus: bool

    @property
    def note(self) -> str:
        """The same in words."""
        if self.shares_cpus:
            return "the load generator shared the server's CPUs: a server alone on them reaches more"
        return f"the load generator ran on {self.cpus} other CPUs"


class ServerReport(Document):
    """The server benchmark.

    Attributes:
        memory: bytes that each server could use.
        rate: of the open loop, requests per second; None where no server was measured.
        rate_from: where the rate comes from: the spec, or half of what the slowest server reaches, at most 100/s.
        candidates: all of them, in the order of the plan.
    """

    NAME: ClassVar[str] = "server_report"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "server_report.json"

    measured_on: MeasuredOn
    load_generator: LoadGenerator
    memory: int
    slo: ServiceLevel
    objective: Objective
    rate: float | None
    rate_from: Literal["slo.throughput", "slowest server"]
    candidates: tuple[CandidateServerResult, ...]
