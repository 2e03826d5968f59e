"""The metrics of TorchServe in its Prometheus mode: counters alone, so that there is a mean latency and no percentile."""

from __future__ import annotations

from orchestrator.backends.server_metrics import Panel, ServerMetrics

__all__ = ["METRICS"]


def _per_request(name: str) -> str:
    total = "sum(rate(ts_inference_requests_total{SELECTOR}[WINDOW]))"
    return f"sum(rate({name}{{SELECTOR}}[WINDOW])) / {total} / 1e6"


_FAILED = "sum(rate(Requests5XX{SELECTOR}[WINDOW]))"

METRICS = ServerMetrics(
    latency=_per_request("ts_inference_latency_microseconds"),
    statistic="mean",
    bounds=(),
    failed=f"{_FAILED} / ({_FAILED} + (sum(rate(Requests2XX{{SELECTOR}}[WINDOW])) or vector(0)))",
    panels=(
        Panel(
            "Mean latency",
            "s",
            {
                "in all": _per_request("ts_inference_latency_microseconds"),
                "waiting": _per_request("ts_queue_latency_microseconds"),
            },
        ),
        Panel(
            "Predictions", "reqps", {"{{pod}}": "sum by (pod) (rate(ts_inference_requests_total{SELECTOR}[WINDOW]))"}
        ),
        Panel(
            "Requests by status, with probes",
            "reqps",
            {f"{each}xx": f"sum(rate(Requests{each}XX{{SELECTOR}}[WINDOW]))" for each in (2, 4, 5)},
        ),
    ),
)
