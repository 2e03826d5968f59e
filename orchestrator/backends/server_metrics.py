"""What a server counts for Prometheus, as expressions of PromQL for the chart's alert rules and dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["SELECTOR", "WINDOW", "Panel", "ServerMetrics", "Unit"]

SELECTOR, WINDOW = "SELECTOR", "WINDOW"
"""In an expression, what the chart replaces by the labels of a release's pods, and by a range of time."""

Unit = Literal["s", "reqps", "percentunit", "short", "bytes"]
"""As Grafana names units: seconds, requests per second, fractions, numbers, bytes."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the dashboard.

    Attributes:
        queries: legend → expression; Grafana replaces `{{label}}` in a legend.
    """

    title: str
    unit: Unit
    queries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """The metrics of one backend's server.

    Attributes:
        latency: the 99th percentile or the mean of the requests' latencies, seconds.
        statistic: which of the two it is.
        bounds: upper bounds of the histogram's buckets, seconds, ascending; empty for a mean.
        failed: the fraction of requests that the server refused or failed to answer.
        panels: of the dashboard.
    """

    latency: str
    statistic: Literal["p99", "mean"]
    bounds: tuple[float, ...]
    failed: str
    panels: tuple[Panel, ...]

    def alert_above(self, limit: float) -> float:
        """What `latency` exceeds only if the limit is exceeded: of a histogram, the smallest bound that is not below the limit.

        Within a bucket Prometheus only interpolates, so a percentile between the limit and the next bound proves nothing.

        Args:
            limit: seconds.
        """
        return next((bound for bound in self.bounds if bound >= limit), limit)
