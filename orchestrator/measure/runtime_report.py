"""Computes the runtime benchmark's report from the raw times. Documented in docs/measuring.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.measurement import WarmUp
from orchestrator.artifacts.runtime_report import (
    AgainstBaseline,
    BatchTimes,
    ColdCalls,
    PairedTimes,
    RuntimeMeasurement,
    RuntimeResult,
)
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.measure.statistics import Comparison, compare_rounds, summarize

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.measure.sweep import Measurement

__all__ = ["artifact_bytes", "best_rows", "raw_arrays", "runtime_result"]


def runtime_result(measured: Measurement, baseline: Measurement | None) -> RuntimeResult:
    """The result of one candidate, or of the baseline.

    Args:
        measured: its measurement.
        baseline: the baseline's measurement; None for the baseline itself.
    """
    found = _measurement(measured, baseline)
    return RuntimeResult(fate=measured.fate, reason=measured.reason, error=measured.error, measured=found)


def _measurement(measured: Measurement, baseline: Measurement | None) -> RuntimeMeasurement | None:
    if not measured.samples or measured.load_seconds is None or measured.facts is None:
        return None
    return RuntimeMeasurement(
        load_seconds=measured.load_seconds,
        first_inference_seconds=measured.warm_up[min(measured.warm_up)].cold[0],
        peak_rss=measured.peak,
        largest_batch=max(measured.samples),
        limited_by=measured.limited_by,
        runtime=measured.facts,
        batches=tuple(_batch(measured, rows) for rows in sorted(measured.samples)),
        against_baseline=None if baseline is None else _against(measured, baseline),
    )


def _batch(measured: Measurement, rows: int) -> BatchTimes:
    rounds = measured.samples[rows]
    pooled = [seconds for chunk in rounds.values() for seconds in chunk]
    warm_up = measured.warm_up.get(rows)
    # Only the smallest size starts in a cold process; its calls warm up the process for the other sizes.
    cold = warm_up.cold if warm_up is not None and rows == min(measured.warm_up) else None
    return BatchTimes(
        **asdict(summarize(pooled)),
        rows=rows,
        rounds=len(rounds),
        rows_per_second=rows * measured.candidate.instances / fmean(pooled),
        without_warm_up=None if cold is None else ColdCalls(first=cold[0], mean=fmean(cold), calls=len(cold)),
        warm_up=None if warm_up is None else WarmUp(settled=warm_up.settled, windows=len(warm_up.windows)),
    )


def _against(measured: Measurement, baseline: Measurement) -> AgainstBaseline | None:
    """Compare with the baseline, round by round: a call with the smallest batch, and the time per row at the best size."""
    common = sorted(measured.samples.keys() & baseline.samples.keys())
    if not common:
        return None
    smallest = common[0]
    mine, its = best_rows(measured), best_rows(baseline)
    latency = _paired(
        {number: median(chunk) for number, chunk in measured.samples[smallest].items()},
        {number: median(chunk) for number, chunk in baseline.samples[smallest].items()},
    )
    throughput = _paired(
        {
            number: fmean(chunk) / (mine * measured.candidate.instances)
            for number, chunk in measured.samples[mine].items()
        },
        {number: fmean(chunk) / its for number, chunk in baseline.samples[its].items()},
    )
    return AgainstBaseline(
        latency=_paired_times(latency, smallest, smallest), throughput=_paired_times(throughput, mine, its)
    )


def _paired_times(found: Comparison | None, rows: int, baseline_rows: int) -> PairedTimes | None:
    if found is None:
        return None
    return PairedTimes(
        rows=rows, baseline_rows=baseline_rows, ratio=found.ratio, low=found.low, high=found.high, rounds=found.rounds
    )


def best_rows(measured: Measurement) -> int:
    """The measured batch size with the lowest time per row."""
    return min(
        measured.samples,
        key=lambda rows: fmean(s for chunk in measured.samples[rows].values() for s in chunk) / rows,
    )


def _paired(mine: Mapping[int, float], its: Mapping[int, float]) -> Comparison | None:
    rounds = sorted(mine.keys() & its.keys())
    if not rounds:
        return None
    return compare_rounds([mine[number] for number in rounds], [its[number] for number in rounds])


def raw_arrays(measurements: list[Measurement]) -> dict[str, np.ndarray[Any, Any]]:
    """All measured times, seconds, for `raw.npz`.

    `CANDIDATE.bROWS.seconds` and `CANDIDATE.bROWS.round` (the round of each), and `CANDIDATE.bROWS.cold`: the first calls,
    before warming up.
    """
    import numpy as np  # noqa: PLC0415 - the command line imports what names this package, and must start fast

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for measured in measurements:
        for rows, rounds in sorted(measured.samples.items()):
            key = f"{measured.name}.b{rows}"
            arrays[f"{key}.seconds"] = np.array([s for chunk in rounds.values() for s in chunk], dtype=np.float64)
            arrays[f"{key}.round"] = np.array([n for n, chunk in rounds.items() for _ in chunk], dtype=np.int32)
        for rows, warm_up in sorted(measured.warm_up.items()):
            arrays[f"{measured.name}.b{rows}.cold"] = np.array(warm_up.cold, dtype=np.float64)
    return arrays


def artifact_bytes(folder: Path) -> int:
    """The size of a variant: its model files, without `facts.json`."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != VariantFacts.FILE)
