"""The document of `select` for people: every candidate with its fate, the reason, and its measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.measurement import MeasuredOn, Objective
from orchestrator.artifacts.runtime_report import RuntimeMeasurement, RuntimeResult
from orchestrator.artifacts.server_report import LoadGenerator, ServerMeasurement, ServiceLevel
from orchestrator.artifacts.variant_facts import FrozenLine
from orchestrator.artifacts.verdict import Accuracy, GateResult
from orchestrator.diagnostics import Diagnostic
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
    "did not help",
    "same as another",
    "not tried",
    "not faster than the baseline",
    "undecided",
    "slo missed",
    "inconclusive",
    "not measured",
    "for devices",
]
"""The fate of a candidate; docs/measuring.md explains each."""

LevelStatus = Literal["met", "missed", "inconclusive", "none"]
"""Whether a server meets the service level; `none` if the spec sets none."""


class Distance(Strict):
    """The distance of a server from the service level; negative values are margin.

    Attributes:
        p99_seconds: seconds above the limit.
        throughput: missing requests per second.
    """

    p99_seconds: float | None
    throughput: float | None


class DecidedCandidate(CandidateIdentity):
    """One candidate.

    Attributes:
        reason: a sentence without a full stop.
        error: what failed, with the remedy, if that is why it has its fate.
        runtime: the measurements of its runtime, as far as it was measured.
        server: the measurements over the wire.
        slo: whether its server meets the service level; None, like `distance`, if the server was not measured.
        proven_rate: requests per second that one replica is proven to hold; None if none is.
        cost_per_million: what a million requests cost at that rate, in the currency of `hardware.price_per_hour`; None without.
        gates: what `verify` measured beside each limit, by gate and output; empty if it was not verified.
        accuracy: by output, where the samples name classes.
        frozen: lines of the model's code whose outcome its variant has as constants, as the spec accepts.
    """

    fate: CandidateFate
    reason: str
    error: Diagnostic | None
    runtime: RuntimeMeasurement | None
    server: ServerMeasurement | None
    slo: LevelStatus | None
    distance: Distance | None
    proven_rate: float | None
    cost_per_million: float | None
    gates: tuple[GateResult, ...]
    accuracy: Mapping[str, Accuracy]
    frozen: tuple[FrozenLine, ...]


class DecidedLevel(ServiceLevel):
    """The spec's `slo`, and whether the winner is proven to meet it.

    Attributes:
        total_throughput: requests per second of all replicas together.
    """

    total_throughput: float | None
    enforce: bool
    met: bool


class Decision(Document):
    """The decision, also if nothing won.

    Attributes:
        winner: None if nothing won.
        refusal: why nothing won, and what to do; None if something did.
        compared: whether the winner was chosen by servers over the wire, or by runtimes; None if nothing won.
        baseline: the original model; None, as are the two that follow, if nothing was measured.
        measured_on: as in the server benchmark, or in the runtime benchmark if no server was measured.
        load_generator: None if no server was measured.
        rate: at which latencies were measured, requests per second; None if no server was measured.
        confidence: of the verdicts about the service level.
        method: topic → how it was judged.
        one_by_one: why requests are answered one by one, a clause; None if they can be batched.
        notes: limitations that a reader of the decision should know, a sentence each.
    """

    NAME: ClassVar[str] = "decision"
    VERSION: ClassVar[int] = 13
    FILE: ClassVar[str] = "decision.json"

    winner: CandidateIdentity | None
    refusal: Diagnostic | None
    candidates: tuple[DecidedCandidate, ...]
    compared: Literal["servers", "runtimes"] | None
    baseline: RuntimeResult | None
    slo: DecidedLevel
    objective: Objective
    rate: float | None
    samples: SamplesKind
    confidence: float
    measured_on: MeasuredOn | None
    load_generator: LoadGenerator | None
    method: Mapping[str, str]
    one_by_one: str | None
    notes: tuple[str, ...]
