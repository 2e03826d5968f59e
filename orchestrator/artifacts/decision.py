"""The document that `select` leaves for people: every candidate with its fate, the reason, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.measurement import MeasuredOn, Objective
from orchestrator.artifacts.runtime_report import RuntimeMeasurement, RuntimeResult
from orchestrator.artifacts.server_report import LoadGenerator, ServerMeasurement, ServiceLevel
from orchestrator.spec.strict import Strict

__all__ = ["CandidateFate", "DecidedCandidate", "DecidedLevel", "Decision", "Distance", "LevelStatus"]

CandidateFate = Literal[
    "won",
    "lost",
    "refused",
    "conversion failed",
    "verification failed",
    "out of memory",
    "dominated",
    "not faster than the baseline",
    "undecided",
    "slo missed",
    "inconclusive",
    "not measured",
    "for devices",
]
"""What became of a candidate; docs/measuring.md explains each."""

LevelStatus = Literal["met", "missed", "inconclusive", "none"]
"""Whether a server holds the service level; `none` where nothing is asked for."""


class Distance(Strict):
    """How far a server is from the service level; negative is room to spare.

    Attributes:
        p99_seconds: over the limit.
        throughput: requests per second short of what is wanted.
    """

    p99_seconds: float | None
    throughput: float | None


class DecidedCandidate(CandidateIdentity):
    """One candidate.

    Attributes:
        reason: a sentence without a full stop.
        runtime: what was measured in its runtime, as far as it came.
        server: what was measured over the wire.
        slo: whether its server holds the service level; None where none was measured, as `distance` is then.
    """

    fate: CandidateFate
    reason: str
    runtime: RuntimeMeasurement | None
    server: ServerMeasurement | None
    slo: LevelStatus | None
    distance: Distance | None


class DecidedLevel(ServiceLevel):
    """The spec's `slo`, and whether the winner is proven to meet it."""

    enforce: bool
    met: bool


class Decision(Document):
    """The decision.

    Attributes:
        compared: what the winner was chosen by: servers over the wire, or runtimes alone.
        baseline: the model as given.
        rate: at which latencies were measured, requests per second; None where no server was measured.
        confidence: of the claims about the service level.
        method: topic → how it was judged.
        notes: what a reader must know to weigh the decision, a sentence each.
    """

    NAME: ClassVar[str] = "decision"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "decision.json"

    winner: CandidateIdentity
    candidates: tuple[DecidedCandidate, ...]
    compared: Literal["servers", "runtimes"]
    baseline: RuntimeResult
    slo: DecidedLevel
    objective: Objective
    rate: float | None
    samples: SamplesKind
    confidence: float
    measured_on: MeasuredOn
    load_generator: LoadGenerator
    method: Mapping[str, str]
    notes: tuple[str, ...]
