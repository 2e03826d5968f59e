"""What a report says, as values: every form of it shows these, and none computes anything of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.artifacts.decision import CandidateFate, LevelStatus
from orchestrator.artifacts.verdict import Accuracy, GateResult

__all__ = [
    "Batch",
    "Distribution",
    "Estimate",
    "Fact",
    "Fate",
    "PlaceKind",
    "Plane",
    "Point",
    "Report",
    "Row",
    "Start",
    "Tried",
]

Fate = CandidateFate | Literal["original model"]
"""The fate of a candidate, or that it is the model as given, which all are compared with."""

PlaceKind = Literal["server", "runtime"]
"""Where times were measured: over the wire in a server, or in a runtime without one."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number and what is known of its true value.

    Attributes:
        low, high: of its interval; None where that end is not known.
        at_least: whether it was limited by the load generator, so that the true value may be higher.
    """

    value: float
    low: float | None = None
    high: float | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls with one batch size in a runtime; seconds, and rows per second."""

    rows: int
    p50: float
    p99: float
    rate: float


@dataclass(frozen=True, slots=True)
class Start:
    """How long it takes until the first answer, seconds; None for what was not measured.

    Attributes:
        load: of the model in its runtime, with the import of the framework.
        first_call: the first call in the runtime.
        ready: from the start of the server to ready.
        first_request: the first request to the server.
    """

    load: float | None
    first_call: float | None
    ready: float | None
    first_request: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate, or the original model.

    Attributes:
        reason: a sentence without a full stop.
        code, remedy: of what failed, and what to do; empty if nothing did.
        size: bytes of its model files; None if there are none.
        image: bytes of the image that its server was measured in, uncompressed; None if it ran as a process.
        memory: the peak while serving or, without a server, in its runtime, bytes.
        speed_up: how many times as fast as the original model, in the sense of the objective, with a 95 % interval.
        call: the median call of the smallest batch in its runtime, seconds.
        p99: over the wire at the rate of the report, seconds, with a 95 % interval.
        rate: rows per second at saturation over the wire, with the range over the segments.
        level: whether it meets the service level; None if its server was not measured.
        proven_rate: requests per second that one replica is proven to hold; None if none is.
        cost: of a million requests at that rate, in the currency of `hardware.price_per_hour`; None without one.
        batches: by rows, ascending.
        gates: what was verified beside each limit.
        accuracy: by output, where samples have labels.
    """

    name: str
    backend: str
    format: str
    precision: str
    fate: Fate
    reason: str
    code: str
    remedy: str
    size: int | None
    image: int | None
    memory: int | None
    speed_up: Estimate | None
    call: float | None
    p99: Estimate | None
    rate: Estimate | None
    level: LevelStatus | None
    proven_rate: float | None
    cost: float | None
    batches: tuple[Batch, ...]
    start: Start
    gates: tuple[GateResult, ...]
    accuracy: Mapping[str, Accuracy]


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in a plane.

    Attributes:
        row: its index in `Report.rows`.
        rate: rows per second.
        latency: seconds.
        on_front: whether no other is better in one of both and not worse in the other (the Pareto front).
    """

    row: int
    rate: Estimate
    latency: Estimate
    on_front: bool


@dataclass(frozen=True, slots=True)
class Plane:
    """Latency over throughput.

    Attributes:
        latency: which latency, in words.
        limit: on the latency, seconds; None if there is none.
    """

    kind: PlaceKind
    latency: str
    limit: float | None
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """The upper part of a distribution of times by its quantiles, each with the exact 95 % interval.

    Attributes:
        row: index in `Report.rows`.
        samples: how many times it was made from.
        levels: quantiles, ascending.
        times: seconds at each of them.
        low, high: ends of their intervals; None where there are too few samples for one.
    """

    row: int
    kind: PlaceKind
    samples: int
    levels: tuple[float, ...]
    times: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate in the rounds of a search.

    Attributes:
        row: index in `Report.rows`.
        times: round → the median over its turns of the time that counts for the objective, seconds.
    """

    row: int
    times: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something to know: its name, its value in words, and what to know about it, which may be empty."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A decision with what it rests on.

    Attributes:
        name: of the deployment.
        decision: in a sentence.
        remedy: what to do if nothing won; else empty.
        closest: if nothing won, which server had the lowest latency, and what it lacked, a sentence; else empty.
        won: whether something did.
        level: what is known of the service level, a sentence; empty if the spec sets none.
        proven: whether that is proven; None if the spec sets none.
        serving: what the deployment has to do with it, a sentence.
        facts: the winner's numbers.
        rows: every candidate, the winner first; the original model last, if it was measured.
        planes: latency over throughput, of servers and of runtimes, as far as measured.
        runtime_rows: rows of a call, for `batches`, ascending.
        search_rounds: numbers of the rounds of the search, ascending; empty without one.
        search_time: which time counts there, in words.
        tried: who was measured there.
        distributions: of times over the wire and in the runtimes, as far as their samples are in the store.
        sizing: what a replica is given.
        environment: where and how it was measured.
        notes: what a reader should know, a sentence each.
        method: how was judged.
    """

    name: str
    decision: str
    remedy: str
    closest: str
    won: bool
    level: str
    proven: bool | None
    serving: str
    facts: tuple[Fact, ...]
    rows: tuple[Row, ...]
    planes: tuple[Plane, ...]
    runtime_rows: tuple[int, ...]
    search_rounds: tuple[int, ...]
    search_time: str
    tried: tuple[Tried, ...]
    distributions: tuple[Distribution, ...]
    sizing: tuple[Fact, ...]
    environment: tuple[Fact, ...]
    notes: tuple[str, ...]
    method: tuple[Fact, ...]
