"""The metrics of TensorFlow Serving, whose names begin with a colon. Source: tensorflow_serving/servables/tensorflow/util.cc."""

from __future__ import annotations

from orchestrator.backends.server_metrics import Panel, ServerMetrics

__all__ = ["METRICS"]

_BOUNDS = tuple(10 * 1.8**power / 1e6 for power in range(33))
"""Of microseconds: 10 and 33 powers of 1.8."""


def _quantile(quantile: float, name: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) (rate({name}_bucket{{SELECTOR}}[WINDOW]))) / 1e6"


METRICS = ServerMetrics(
    latency=_quantile(0.99, ":tensorflow:serving:request_latency"),
    statistic="p99",
    bounds=_BOUNDS,
    failed=(
        'sum(rate(:tensorflow:serving:request_count{status!~"OK|INVALID_ARGUMENT|CANCELLED",SELECTOR}[WINDOW])) '
        '/ sum(rate(:tensorflow:serving:request_count{status!~"INVALID_ARGUMENT|CANCELLED",SELECTOR}[WINDOW]))'
    ),
    panels=(
        Panel(
            "Latency",
            "s",
            {
                f"p{round(quantile * 100)}": _quantile(quantile, ":tensorflow:serving:request_latency")
                for quantile in (0.99, 0.95, 0.5)
            },
        ),
        Panel(
            "Latency of the model alone",
            "s",
            {
                f"p{round(quantile * 100)}": _quantile(quantile, ":tensorflow:serving:runtime_latency")
                for quantile in (0.99, 0.5)
            },
        ),
        Panel(
            "Requests by status",
            "reqps",
            {"{{status}}": "sum by (status) (rate(:tensorflow:serving:request_count{SELECTOR}[WINDOW]))"},
        ),
    ),
)
