"""The metrics of mlo's own server; `orchestrator/server/metrics.py` counts them."""

from __future__ import annotations

from orchestrator.backends.server_metrics import Panel, ServerMetrics

__all__ = ["OWN_METRICS"]

_BOUNDS = (
    *(float(f"{first}e{power}") for power in range(-4, 1) for first in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)),
    10.0,
    20.0,
    30.0,
)
"""As in the server's file, which ships alone; a test compares them with what a server says."""


def _quantile(quantile: float, stage: str) -> str:
    buckets = f'mlo_request_seconds_bucket{{stage="{stage}",SELECTOR}}'
    return f"histogram_quantile({quantile}, sum by (le) (rate({buckets}[WINDOW])))"


def _mean(stage: str) -> str:
    both = (f'sum(rate(mlo_request_seconds_{part}{{stage="{stage}",SELECTOR}}[WINDOW]))' for part in ("sum", "count"))
    return " / ".join(both)


OWN_METRICS = ServerMetrics(
    latency=_quantile(0.99, "total"),
    statistic="p99",
    bounds=_BOUNDS,
    failed=(
        'sum(rate(mlo_requests_total{code=~"429|5..",SELECTOR}[WINDOW])) '
        '/ sum(rate(mlo_requests_total{code=~"200|429|5..",SELECTOR}[WINDOW]))'
    ),
    panels=(
        Panel(
            "Latency",
            "s",
            {"p99": _quantile(0.99, "total"), "p95": _quantile(0.95, "total"), "p50": _quantile(0.5, "total")},
        ),
        Panel(
            "Requests by status", "reqps", {"{{code}}": "sum by (code) (rate(mlo_requests_total{SELECTOR}[WINDOW]))"}
        ),
        Panel(
            "Refused and failed requests",
            "reqps",
            {"{{reason}}": "sum by (reason) (rate(mlo_rejections_total{SELECTOR}[WINDOW]))"},
        ),
        Panel(
            "Mean time per request by stage",
            "s",
            {stage: _mean(stage) for stage in ("read", "decode", "queue", "run", "encode")},
        ),
        Panel("Rows waiting for the model", "short", {"{{pod}}": "sum by (pod) (mlo_queue_rows{SELECTOR})"}),
        Panel(
            "Mean rows per call of the model",
            "short",
            {
                "rows": "sum(rate(mlo_batch_rows_sum{SELECTOR}[WINDOW])) / sum(rate(mlo_batch_rows_count{SELECTOR}[WINDOW]))"
            },
        ),
        Panel(
            "Model busy, fraction of the time",
            "percentunit",
            {
                "{{pod}} {{exported_instance}}": (
                    "sum by (pod, exported_instance) (rate(mlo_instance_seconds_total{SELECTOR}[WINDOW]))"
                )
            },
        ),
        Panel("Memory", "bytes", {"{{pod}}": "sum by (pod) (process_resident_memory_bytes{SELECTOR})"}),
        Panel("CPUs", "short", {"{{pod}}": "sum by (pod) (rate(process_cpu_seconds_total{SELECTOR}[WINDOW]))"}),
        Panel("Ready pods", "short", {"ready": "sum(mlo_ready{SELECTOR})"}),
    ),
)
