"""The server benchmark's report: what is computed, once, from the raw latencies. Documented in docs/measuring.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.measure.server_rounds import (
    Contender,
    LoadSettings,
    Segment,
    generator_late,
    verdict,
    warm_windows_settled,
)
from orchestrator.measure.statistics import Verdict, percentile_interval, summarize

if TYPE_CHECKING:
    import numpy as np

__all__ = ["contender_report", "raw_arrays"]

REFUSED_SECONDS = 10.0
"""What a request counts in the percentiles that the server was too busy for: as long as the generator waits for an answer.
For the limit it counts as over it, whatever that is."""

_CARRIED = 0.95
"""A rate of which this part is answered while it is offered is carried: the last answers come after the last request."""


def contender_report(
    contender: Contender, settings: LoadSettings, rate: float, throughput: float | None
) -> dict[str, Any]:
    """What is said of one server, JSON.

    Args:
        contender: measured, or failed on the way.
        settings: how it was loaded.
        rate: of the open loop, requests per second.
        throughput: of the SLO, requests per second.
    """
    measured = contender.fate == "measured" and bool(contender.scheduled) and bool(contender.saturated)
    if measured and not any(segment.latencies for segment in contender.saturated):
        contender.fate, contender.reason, measured = "failed", "its server answers no request under load", False
    found = verdict(contender, settings.p99_limit) if measured and settings.p99_limit is not None else None
    late = settings.p99_limit is not None and measured and generator_late(contender, settings.p99_limit)
    saturation = _saturation(contender.saturated, settings.connections) if measured else None
    return {
        "fate": contender.fate if measured or contender.fate != "measured" else "failed",
        "reason": contender.reason,
        "peak_rss": contender.server.peak,
        "warm_up": {
            "settled": warm_windows_settled(contender.warm_windows),
            "windows": len(contender.warm_windows),
            "requests_per_second": contender.capacity,
        },
        "errors": dict(contender.errors),
        "refused": dict(contender.refused),
        "open_loop": _open_loop(contender, rate) if measured else None,
        "saturation": saturation,
        "slo": {
            "p99": None
            if found is None
            else {**_level(found, late=late), "limit": settings.p99_limit, "quantile": 0.99, "confidence": 0.99},
            "throughput": None
            if throughput is None or saturation is None
            else _throughput(throughput, contender, saturation["rows_per_second"], late=late),
        },
    }


def _open_loop(contender: Contender, rate: float) -> dict[str, Any]:
    known = contender.latencies
    worst = max(REFUSED_SECONDS, *(latency for latency in known if math.isfinite(latency)), 0.0)
    latencies = [min(latency, worst) for latency in known]
    low, high = percentile_interval(latencies, 0.99)
    delays = contender.delays
    return {
        "rate": rate,
        "segments": len(contender.scheduled),
        **summarize(latencies).as_json(),
        "p99_interval": [low, high],
        "generator_delay": {"p50": summarize(delays).p50, "p99": summarize(delays).p99},
    }


def _saturation(segments: list[Segment], connections: int) -> dict[str, Any]:
    answered = sum(segment.answered for segment in segments)
    finished = sum(len(segment.latencies) for segment in segments)
    seconds = sum(segment.seconds for segment in segments)
    return {
        "connections": connections,
        "seconds": seconds,
        "answered": answered,
        "rows_per_second": answered / seconds,
        # CPU time covers what was in flight at the end too, so it is shared by all that were finished.
        "cpu_seconds_per_request": sum(segment.cpu_seconds for segment in segments) / max(1, finished),
        **summarize([latency for segment in segments for latency in segment.latencies]).as_json(),
        "by_segment": [segment.answered / segment.seconds for segment in segments],
        "cpu_by_segment": [segment.cpu_seconds / max(1, len(segment.latencies)) for segment in segments],
    }


def _level(found: Verdict, *, late: bool) -> dict[str, Any]:
    """The verdict; a limit that the generator may have missed is not decided."""
    if found.status != "missed" or not late:
        return found.as_json()
    return {**found.as_json(), "status": "inconclusive", "reason": "the load generator sent its requests late"}


def _throughput(wanted: float, contender: Contender, saturated: float, *, late: bool) -> dict[str, Any]:
    """Whether the wanted rate is carried: by what was answered while it was offered, or by saturation."""
    carried = _carried(contender.scheduled)
    found = {"wanted": wanted, "reached": max(saturated, carried)}
    if saturated >= wanted or carried >= _CARRIED * wanted:
        return {**found, "met": True}
    return {**found, "met": False, **({"reason": "the load generator sent its requests late"} if late else {})}


def _carried(segments: list[Segment]) -> float:
    """Answers a second of the open loop, until the last one came; how long one takes at least is not the rate's fault."""
    answered = sum(segment.answered for segment in segments)
    seconds = sum(segment.seconds - min(segment.latencies, default=0.0) for segment in segments)
    return answered / seconds if seconds > 0 else 0.0


def raw_arrays(contenders: Mapping[str, Contender]) -> dict[str, np.ndarray[Any, Any]]:
    """Every latency, seconds, for `raw.npz`.

    `VARIANT.open.seconds` and `VARIANT.open.segment`, `VARIANT.saturated.seconds` and `VARIANT.saturated.segment`.
    """
    import numpy as np  # noqa: PLC0415 - as in runtime_report

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for variant, contender in contenders.items():
        for name, segments in (("open", contender.scheduled), ("saturated", contender.saturated)):
            arrays[f"{variant}.{name}.seconds"] = np.array([s for one in segments for s in one.latencies], np.float64)
            arrays[f"{variant}.{name}.segment"] = np.array(
                [number for number, one in enumerate(segments) for _ in one.latencies], np.int32
            )
    return arrays
