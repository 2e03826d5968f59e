"""The document of `benchmark.runtime`: all candidates and the baseline, measured in their runtimes without a server."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.measurement import MeasuredOn, Objective, Times, WarmUp
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict

__all__ = [
    "AgainstBaseline",
    "BatchTimes",
    "CandidateRuntimeResult",
    "ColdCalls",
    "PairedTimes",
    "RuntimeFate",
    "RuntimeMeasurement",
    "RuntimeReport",
    "RuntimeResult",
]

RuntimeFate = Literal["measured", "dominated", "out of memory", "failed", "not measured"]
"""The outcome of the runtime benchmark for one model; `dominated`: dropped after some rounds, since another is faster."""


class ColdCalls(Strict):
    """The first calls of a process, seconds."""

    first: float
    mean: float
    calls: int


class BatchTimes(Times):
    """Calls with one batch size.

    Attributes:
        rows: per call.
        rounds: in which it was measured.
        without_warm_up: the first calls; None if another batch size had warmed up the process.
        warm_up: None if it was measured in a process that had to be restarted.
    """

    rows: int
    rounds: int
    rows_per_second: float
    without_warm_up: ColdCalls | None
    warm_up: WarmUp | None


class PairedTimes(Strict):
    """The candidate's times compared with the baseline's, round by round.

    Attributes:
        rows: batch size of the candidate.
        baseline_rows: batch size of the baseline.
        ratio: median of the candidate's time divided by the baseline's; below 1 is faster.
        low, high: confidence interval of that median; `high` is None if there were too few rounds.
        rounds: number of pairs.
    """

    rows: int
    baseline_rows: int
    ratio: float
    low: float
    high: float | None
    rounds: int

    @property
    def faster(self) -> bool:
        """The whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def slower(self) -> bool:
        """The whole interval lies above 1."""
        return self.low > 1


class AgainstBaseline(Strict):
    """A candidate compared with the baseline.

    Attributes:
        latency: time of a call with the smallest batch; None if the two have no round in common.
        throughput: time per row, each at its best batch size.
    """

    latency: PairedTimes | None
    throughput: PairedTimes | None

    def for_objective(self, objective: Objective) -> PairedTimes | None:
        """The comparison that counts for the objective."""
        return self.latency if objective == "latency" else self.throughput


class RuntimeMeasurement(Strict):
    """The measurements of one model in its runtime.

    Attributes:
        peak_rss: peak resident memory, bytes.
        largest_batch: rows of the largest measured batch.
        limited_by: why larger batches are missing; empty if none is.
        batches: by rows, ascending; at least one.
        against_baseline: None for the baseline itself, or if the baseline could not be measured.
    """

    load_seconds: float
    first_inference_seconds: float
    peak_rss: int
    largest_batch: int
    limited_by: str
    runtime: RuntimeFacts
    batches: tuple[BatchTimes, ...]
    against_baseline: AgainstBaseline | None


class RuntimeResult(Strict):
    """The result of one model.

    Attributes:
        reason: a sentence without a full stop; empty if it was measured to the end.
        error: what failed, if its fate is `out of memory` or `failed`.
        measured: None if nothing could be measured.
    """

    fate: RuntimeFate
    reason: str
    error: Diagnostic | None
    measured: RuntimeMeasurement | None


class CandidateRuntimeResult(CandidateIdentity, RuntimeResult):
    """The result of one candidate.

    Attributes:
        as_given: whether it is the user's original model, which does not have to be faster than itself.
        artifact_bytes: size of the variant; None if its conversion failed.
    """

    as_given: bool
    artifact_bytes: int | None


class RuntimeReport(Document):
    """The runtime benchmark.

    Attributes:
        memory: bytes that each process could use.
        batch_sizes: the requested batch sizes.
        samples: whether the inputs are real.
        rounds: the maximum.
        baseline: the original model in its own framework.
        candidates: all of them, in the order of the plan.
    """

    NAME: ClassVar[str] = "runtime_report"
    VERSION: ClassVar[int] = 2
    FILE: ClassVar[str] = "runtime_report.json"

    measured_on: MeasuredOn
    memory: int
    batch_sizes: tuple[int, ...]
    samples: SamplesKind
    rounds: int
    baseline: RuntimeResult
    candidates: tuple[CandidateRuntimeResult, ...]
