"""The document of `benchmark.server`: the finalists, measured over the wire in their real servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.measurement import MeasuredOn, NotMeasured, Objective, Times, WarmUp, rate_text
from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Wire

__all__ = [
    "CandidateServerResult",
    "GeneratorDelay",
    "GeneratorLimit",
    "ImageSizes",
    "Knee",
    "LoadGenerator",
    "MeasuredLevel",
    "MeasuredProgram",
    "OpenLoop",
    "OtherProcesses",
    "P99Level",
    "Saturation",
    "ServerFate",
    "ServerMeasurement",
    "ServerReport",
    "ServerSettings",
    "ServerWarmUp",
    "ServiceLevel",
    "ThroughputLevel",
    "WireResult",
]

ServerFate = Literal["measured", "not a finalist", "no server", "out of memory", "failed"]
"""The outcome of the server benchmark for one candidate; `no server`: only its runtime can be measured here."""


class ServiceLevel(Strict):
    """The spec's `slo`: seconds, and requests per second; None for a part that is not set."""

    p99_latency: float | None
    throughput: float | None


class ServerSettings(Strict):
    """The settings of a server.

    Attributes:
        max_batch_size: the maximum rows per batch.
        max_delay: the maximum seconds that a request waits for others.
    """

    max_batch_size: int
    max_delay: float


class MeasuredProgram(Strict):
    """The program or image of a server that does not come with a Python package.

    Attributes:
        version: as printed by the program, or the image's id.
        rendered: whether rendered images have this version.
    """

    name: str
    version: str
    rendered: bool


class ServerWarmUp(WarmUp):
    """A server's warm-up.

    Attributes:
        requests_per_second: of its last window; None if that had too few answers.
    """

    requests_per_second: float | None


class GeneratorDelay(Strict):
    """How late the load generator sent its requests, seconds; part of the latencies."""

    p50: float
    p99: float


class GeneratorLimit(Strict):
    """What the load generator reached with the same requests at a server that answers at once, on the server's CPUs.

    Attributes:
        connections: that it kept busy, as many as at saturation.
        requests_per_second: that it reached.
        cpu_seconds_per_request: that it used itself.
    """

    connections: int
    requests_per_second: float
    cpu_seconds_per_request: float


class OpenLoop(Times):
    """Requests at a fixed rate, independent of answers; latency counts from the scheduled time.

    Attributes:
        rate: requests per second.
        p99_interval: the 95 % confidence interval; the upper end is None if there are too few samples.
        slowest: the ten largest latencies, descending; two servers are told apart by them if there are few samples.
        cpus: that the server used meanwhile.
    """

    rate: float
    segments: int
    p99_interval: tuple[float, float | None]
    slowest: tuple[float, ...]
    generator_delay: GeneratorDelay
    cpus: float


class Saturation(Times):
    """Connections that send their next request when the previous one is answered.

    Attributes:
        connections: fewer than usual for a slow model.
        seconds: of all segments, each from its first answer to its last.
        answered: requests answered within that time.
        at_least: rows per second that were answered.
        rows_per_second: the same; None if the load generator may be what limited it.
        cpu_seconds_per_request: that the server used; None if it was too little to be measured.
        generator_cpu_seconds_per_request: that the load generator used.
        by_segment: rows per second of each segment.
        cpu_by_segment: CPU seconds per request of each segment.
    """

    connections: int
    seconds: float
    answered: int
    at_least: float
    rows_per_second: float | None
    cpu_seconds_per_request: float | None
    generator_cpu_seconds_per_request: float
    by_segment: tuple[float, ...]
    cpu_by_segment: tuple[float, ...]

    @property
    def rows_text(self) -> str:
        """Such as `1,790 rows/s`, or `at least 9,000 rows/s` where the load generator may be what limited it."""
        return f"{'at least ' if self.rows_per_second is None else ''}{rate_text(self.at_least)} rows/s"


class P99Level(Strict):
    """Whether a quantile of the latencies is within the limit; see `orchestrator.measure.statistics.QuantileTest`.

    Attributes:
        limit: seconds.
        generator_late: a miss is not proven, because the load generator sent its requests late.
        disturbed: a miss is not proven, because other processes used the CPUs meanwhile.
    """

    status: Literal["met", "missed", "inconclusive"]
    samples: int
    over: int
    samples_wanted: int
    limit: float
    quantile: float
    confidence: float
    generator_late: bool
    disturbed: bool


class ThroughputLevel(Strict):
    """Whether the wanted rate is sustained, requests per second.

    Attributes:
        generator_late: a miss is not proven, because the load generator sent its requests late.
        generator_limited: a miss is not proven, because the load generator could hardly have sent more.
        disturbed: a miss is not proven, because other processes used the CPUs at saturation, and it is none without those segments.
    """

    wanted: float
    reached: float
    met: bool
    generator_late: bool
    generator_limited: bool
    disturbed: bool


class WireResult(Strict):
    """One way in which the server takes tensors, measured by single calls, one after the other.

    Attributes:
        wire: JSON or raw bytes over HTTP, or messages over gRPC.
        request_bytes, answer_bytes: of a body or message; those of an answer over gRPC are not counted.
        call: the median time of one call, seconds; None if the server refused the request.
        model: how much of it the model takes in its runtime without a server, seconds.
        connections: that the rows per second were measured with; None if only single calls were.
        rows_per_second: at least so many were answered at saturation; None as above.
        refused: why the server does not take this model's requests so; empty if it does.
    """

    wire: Wire
    request_bytes: int
    answer_bytes: int | None
    call: float | None
    model: float | None
    connections: int | None
    rows_per_second: float | None
    refused: str

    @property
    def name(self) -> str:
        """The wire in words."""
        return {"json": "JSON", "binary": "raw tensors", "grpc": "gRPC"}[self.wire]

    @property
    def around(self) -> float | None:
        """What transfer, coding and the server add to the model, seconds."""
        return None if self.call is None or self.model is None else max(0.0, self.call - self.model)


class Knee(Times):
    """The largest rate at which the limit on the latency is proven to be held; above it, latencies rise quickly.

    Attributes:
        rate: requests per second.
        level: the proof.
        cpus: that the server used meanwhile.
        unsearched: why larger rates may hold it too: what ended the search before it had found the largest; else empty.
    """

    rate: float
    level: P99Level
    cpus: float
    unsearched: str


class MeasuredLevel(Strict):
    """The service level as measured; None for a part that is not set."""

    p99: P99Level | None
    throughput: ThroughputLevel | None


class OtherProcesses(Strict):
    """What other processes used of the CPUs that a server ran on, during the open loop.

    Attributes:
        cpus: the part of these CPUs, 0 to 1, on average over its segments.
        disturbed: the number of segments in which that was too much for a miss to be the server's.
        again: how many were measured again because of it.
    """

    cpus: float
    disturbed: int
    again: int


class ImageSizes(Strict):
    """Bytes of an image, uncompressed, as the engine counted them when it was built.

    Attributes:
        total: of all layers.
        base: of the base image.
        model: of the folder that the server reads: model and configuration.
    """

    total: int
    base: int
    model: int


class ServerMeasurement(Strict):
    """The measurements of one server.

    Attributes:
        wire: over which the open loop and the saturation were measured.
        wires: all that were tried, that one among them.
        settings: with which it was started.
        inside: whether it ran as a process of this machine, or in a container, which has other overheads and its limits.
        image: that it was started from; None for a process.
        program: None if the server comes with a Python package.
        ready_seconds: from the start to ready.
        first_request_seconds: duration of the first request, whose answer was checked.
        peak_rss: of all its processes together, bytes.
        generator: the load generator's own limit with this server's requests; None if it could not be measured.
        refused: reason of a refusal as too busy → number of requests of the open loop.
        knee: None if the spec gives no limit on the latency.
        longest_request: of all answered requests under load, seconds.
        others: None where it is not known what other processes used.
    """

    wire: Wire
    wires: tuple[WireResult, ...]
    settings: ServerSettings
    inside: Literal["process", "container"]
    image: ImageSizes | None
    program: MeasuredProgram | None
    ready_seconds: float
    first_request_seconds: float
    peak_rss: int
    warm_up: ServerWarmUp
    generator: GeneratorLimit | None
    refused: Mapping[str, int]
    open_loop: OpenLoop | NotMeasured
    saturation: Saturation | NotMeasured
    slo: MeasuredLevel
    knee: Knee | NotMeasured | None
    longest_request: float
    others: OtherProcesses | None

    @property
    def over(self) -> WireResult:
        """The result of the wire over which the server was loaded."""
        return next(each for each in self.wires if each.wire == self.wire)

    @property
    def on_schedule(self) -> OpenLoop | None:
        """The open loop, if it was measured."""
        return self.open_loop if isinstance(self.open_loop, OpenLoop) else None

    @property
    def saturated(self) -> Saturation | None:
        """The saturation, if it was measured."""
        return self.saturation if isinstance(self.saturation, Saturation) else None

    @property
    def known_knee(self) -> Knee | None:
        """The knee, if there is a limit on the latency and it is held."""
        return self.knee if isinstance(self.knee, Knee) else None


class CandidateServerResult(CandidateIdentity):
    """The result of one candidate.

    Attributes:
        reason: a sentence without a full stop; empty if it was measured.
        error: what failed, or what is missing to start the server here.
        settings: of its server, even if it cannot be started here; None if it was not to be started.
        measured: None unless that is its fate.
    """

    fate: ServerFate
    reason: str
    error: Diagnostic | None
    settings: ServerSettings | None
    measured: ServerMeasurement | None


class LoadGenerator(Strict):
    """Where the load generator ran.

    Attributes:
        cpus: number of its CPUs.
        shares_cpus: whether it shared the servers' CPUs, because the machine has no others.
    """

    cpus: int
    shares_cpus: bool

    @property
    def note(self) -> str:
        """The same in words."""
        if self.shares_cpus:
            return "the load generator shared the server's CPUs; without it, the server would be faster"
        return f"the load generator ran on {self.cpus} other CPUs"


class ServerReport(Document):
    """The server benchmark.

    Attributes:
        memory: bytes that each server could use.
        rate: of the open loop, requests per second; None if no server was measured.
        rate_from: the origin of the rate: the spec, or half of what the slowest server reaches, at most 100/s.
        candidates: all of them, in the order of the plan.
    """

    NAME: ClassVar[str] = "server_report"
    VERSION: ClassVar[int] = 9
    FILE: ClassVar[str] = "server_report.json"

    measured_on: MeasuredOn
    load_generator: LoadGenerator
    memory: int
    slo: ServiceLevel
    objective: Objective
    rate: float | None
    rate_from: Literal["slo.throughput", "slowest server"]
    candidates: tuple[CandidateServerResult, ...]
