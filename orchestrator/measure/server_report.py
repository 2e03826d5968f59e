"""The server benchmark's report: what is computed, once, from the raw latencies. Documented in docs/measuring.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.measure.server_rounds import Contender, LoadSettings, Segment, verdict
from orchestrator.measure.statistics import Verdict, summarize

if TYPE_CHECKING:
    import numpy as np

__all__ = ["contender_report", "raw_arrays"]


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
    found = verdict(contender, settings.p99_limit) if measured and settings.p99_limit is not None else None
    saturation = _saturation(contender.saturated, settings.connections) if measured else None
    return {
        "fate": contender.fate if measured or contender.fate != "measured" else "failed",
        "reason": contender.reason,
        "peak_rss": contender.server.peak,
        "warm_up": {"windows": len(contender.warm_windows), "requests_per_second": contender.capacity},
        "errors": dict(contender.errors),
        "open_loop": _open_loop(contender, rate) if measured else None,
        "saturation": saturation,
        "slo": {
            "p99": None
            if found is None
            else {**found.as_json(), "limit": settings.p99_limit, "quantile": 0.99, "confidence": 0.99},
            "throughput": None
            if throughput is None or saturation is None
            else _throughput(throughput, rate, found, saturation["rows_per_second"]),
        },
    }


def _open_loop(contender: Contender, rate: float) -> dict[str, Any]:
    delays = [delay for segment in contender.scheduled for delay in segment.delays]
    return {
        "rate": rate,
        "segments": len(contender.scheduled),
        **summarize(contender.latencies).as_json(),
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
    }


def _throughput(wanted: float, rate: float, found: Verdict | None, saturated: float) -> dict[str, Any]:
    """Whether the wanted rate is carried: shown by holding the limit at that rate, or by saturation."""
    reached = max(saturated, rate if found is not None and found.status == "met" else 0.0)
    return {"wanted": wanted, "reached": reached, "met": reached >= wanted}


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
