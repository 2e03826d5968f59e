"""The document that `benchmark.runtime` leaves: every candidate and the baseline in their runtimes, without a server."""

from __future__ import annotations

from typing import ClassVar, Literal

from orchestrator.artifacts.candidate import CandidateRow
from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.measurement import MeasuredOn, Objective, Times, WarmUp
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.spec.strict import Strict

__all__ = [
    "AgainstBaseline",
    "BatchTimes",
    "ColdCalls",
    "PairedTimes",
    "RuntimeFate",
    "RuntimeMeasurement",
    "RuntimeReport",
    "RuntimeResult",
    "RuntimeRow",
]

RuntimeFate = Literal["measured", "dominated", "out of memory", "failed", "not measured"]
"""How far a model came in the runtime benchmark; `dominated` was dropped after some rounds."""


class ColdCalls(Strict):
    """The first calls of a process, seconds."""

    first: float
    mean: float
    calls: int


class BatchTimes(Times):
    """Calls with one batch size.

    Attributes:
        rows: in each call.
        rounds: that it took part in.
        without_warm_up: its first calls; None where another batch size had warmed the process.
        warm_up: None where it was measured in a process that had to be started again.
    """

    rows: int
    rounds: int
    rows_per_second: float
    without_warm_up: ColdCalls | None
    warm_up: WarmUp | None


class PairedTimes(Strict):
    """Times compared with the baseline's, round by round.

    Attributes:
        rows: batch size of the candidate.
        baseline_rows: batch size of the baseline.
        ratio: median of this one's time by the baseline's; below 1 is faster.
        low, high: confidence interval of that median; no `high` where there were too few rounds to tell.
        rounds: how many pairs.
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
        latency: one call of the smallest batch; None where the two have no round in common.
        throughput: time for each row, at the best batch size of either.
    """

    latency: PairedTimes | None
    throughput: PairedTimes | None

    def in_what_matters_for(self, objective: Objective) -> PairedTimes | None:
        """The comparison that the objective looks at."""
        return self.latency if objective == "latency" else self.throughput


class RuntimeMeasurement(Strict):
    """The numbers of one model in its runtime.

    Attributes:
        peak_rss: largest resident memory, bytes.
        largest_batch: rows of the largest batch that was measured.
        limited_by: why larger batches are missing; empty where none is.
        batches: by rows, ascending; at least one.
        against_baseline: None for the baseline itself, and where it could not be measured.
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
    """What became of one model.

    Attributes:
        reason: a sentence without a full stop; empty where it was measured to the end.
        measured: None where nothing could be measured.
    """

    fate: RuntimeFate
    reason: str
    measured: RuntimeMeasurement | None


class RuntimeRow(CandidateRow, RuntimeResult):
    """What became of one candidate.

    Attributes:
        as_given: whether it is the model as the user gave it, which need not be faster than itself.
        artifact_bytes: size of the variant; None where it was not made.
    """

    as_given: bool
    artifact_bytes: int | None


class RuntimeReport(Document):
    """The runtime benchmark.

    Attributes:
        memory: bytes that each process could use.
        batch_sizes: that were to be measured.
        samples: whether the inputs are real.
        rounds: at most.
        baseline: the model as given, in its own framework.
        candidates: all of them, in the order of the plan.
    """

    NAME: ClassVar[str] = "runtime_report"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "runtime_report.json"

    measured_on: MeasuredOn
    memory: int
    batch_sizes: tuple[int, ...]
    samples: SamplesKind
    rounds: int
    baseline: RuntimeResult
    candidates: tuple[RuntimeRow, ...]
