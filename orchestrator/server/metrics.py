"""Prometheus metrics: counted on the event loop without locks, and formatted on request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

__all__ = ["STAGES", "Histogram", "InstanceLoad", "Metrics"]

STAGES = ("read", "decode", "queue", "run", "encode", "total")
"""The parts of a request's time: body read, body to tensors, waiting, the model's call, tensors to body, all of it."""

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENCY = (
    *(float(f"{first}e{power}") for power in range(-4, 1) for first in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)),
    10.0,
    20.0,
    30.0,
)
"""Seconds of the whole request: Renard's series R10 (ISO 3), so that any limit is at most 26 % below a bound, and the usual
ones are bounds themselves."""
_ROWS = tuple(float(2**power) for power in range(11))


class Histogram:
    """Counts by upper bound. Written by one thread; much cheaper than the library's, which locks for each value."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, values up to it), as Prometheus counts."""
        pairs: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            pairs.append((bound, total))
        return pairs

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._sum


@dataclass(frozen=True, slots=True)
class InstanceLoad:
    """Counters of one instance: model calls, rows, seconds; and whether it is paused after a failure."""

    instance: str
    device: str
    calls: int
    rows: int
    seconds: float
    resting: bool


class Metrics(Collector):
    """All metrics of the server."""

    def __init__(
        self,
        info: Mapping[str, str],
        queued_rows: Callable[[], int],
        ready: Callable[[], bool],
        instances: Callable[[], Sequence[InstanceLoad]],
    ) -> None:
        """Register the families.

        Args:
            info: the labels of `mlo_model_info`.
            queued_rows: the number of waiting rows.
            ready: whether requests are accepted now.
            instances: the counters of each instance.
        """
        self.seconds = {stage: Histogram(_LATENCY if stage == "total" else _SECONDS) for stage in STAGES}
        self.batch_rows = Histogram(_ROWS)
        self.requests: Counter[tuple[str, int]] = Counter()
        self.rejections: Counter[str] = Counter()
        self._info = dict(info)
        self._queued_rows = queued_rows
        self._ready = ready
        self._instances = instances
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def text(self) -> bytes:
        """The page in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The metric families, for `prometheus_client`."""
        yield InfoMetricFamily("mlo_model", "The served model.", value=self._info)
        yield GaugeMetricFamily("mlo_ready", "1 while the server accepts requests.", value=float(self._ready()))
        yield GaugeMetricFamily("mlo_queue_rows", "Rows waiting for the model.", value=self._queued_rows())
        seconds = HistogramMetricFamily("mlo_request_seconds", "Time per request by stage.", labels=["stage"])
        for stage, histogram in self.seconds.items():
            seconds.add_metric([stage], histogram.buckets(), histogram.sum)
        yield seconds
        rows = HistogramMetricFamily("mlo_batch_rows", "Rows per model call.")
        rows.add_metric([], self.batch_rows.buckets(), self.batch_rows.sum)
        yield rows
        requests = CounterMetricFamily(
            "mlo_requests", "Inference requests by status code.", labels=["protocol", "code"]
        )
        for (protocol, code), count in sorted(self.requests.items()):
            requests.add_metric([protocol, str(code)], count)
        yield requests
        rejections = CounterMetricFamily("mlo_rejections", "Refused requests.", labels=["reason"])
        for reason, count in sorted(self.rejections.items()):
            rejections.add_metric([reason], count)
        yield rejections
        yield from self._by_instance()

    def _by_instance(self) -> Iterator[Metric]:
        labels = ["instance", "device"]
        calls = CounterMetricFamily("mlo_instance_calls", "Model calls.", labels=labels)
        rows = CounterMetricFamily("mlo_instance_rows", "Rows in model calls.", labels=labels)
        seconds = CounterMetricFamily("mlo_instance_seconds", "Time of model calls.", labels=labels)
        resting = GaugeMetricFamily(
            "mlo_instance_resting", "1 while the instance is paused after a failure.", labels=labels
        )
        for load in self._instances():
            values = [load.instance, load.device]
            calls.add_metric(values, load.calls)
            rows.add_metric(values, load.rows)
            seconds.add_metric(values, load.seconds)
            resting.add_metric(values, float(load.resting))
        yield from (calls, rows, seconds, resting)
