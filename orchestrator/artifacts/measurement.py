"""Common parts of both benchmarks' reports: distributions of times, and the machine that was measured on."""

from __future__ import annotations

from typing import Literal

from orchestrator.machine.cpus import CpuShare
from orchestrator.machine.cuda_devices import CudaDevices
from orchestrator.spec.strict import Strict

__all__ = [
    "MeasuredOn",
    "NotMeasured",
    "Objective",
    "Times",
    "WarmUp",
    "bytes_text",
    "memory_text",
    "rate_text",
    "seconds_text",
    "times_text",
]

Objective = Literal["latency", "throughput", "cost"]
"""As in the spec's `optimize.objective`."""


class Times(Strict):
    """The distribution of some times, seconds; see `orchestrator.measure.statistics.Summary`."""

    samples: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class NotMeasured(Strict):
    """In place of figures that could not be measured.

    Attributes:
        reason: why, and what would help; a sentence without a full stop.
    """

    reason: str


class WarmUp(Strict):
    """Whether the warm-up settled, and after how many windows."""

    settled: bool
    windows: int


class MeasuredOn(Strict):
    """The part of a machine that was measured on.

    Attributes:
        cpus: number of used CPUs.
        cpus_wanted: number of CPUs in the spec.
        threads: of each runtime or server.
        how: both numbers in words.
        accelerators: names of the GPUs; None on CPUs.
        driver: the version of the GPU driver; None on CPUs.
    """

    cpus: int
    cpus_wanted: float
    threads: int
    how: str
    accelerators: tuple[str, ...] | None
    driver: str | None

    @classmethod
    def of(cls, share: CpuShare, devices: CudaDevices | None, count: int = 1) -> MeasuredOn:
        """The value for a report.

        Args:
            share: the CPUs.
            devices: the machine's GPUs; None on CPUs.
            count: how many of the GPUs were used, starting with the first.
        """
        return cls(
            cpus=len(share.cpus),
            cpus_wanted=share.wanted,
            threads=share.threads,
            how=share.how,
            accelerators=None if devices is None else tuple(devices.names[:count]),
            driver=None if devices is None else devices.driver,
        )


def bytes_text(count: int) -> str:
    """An amount for a person: `438 B`, `57 kB`, `3.1 MB`, `1,240 MB`."""
    if count < 10_000:
        return f"{count:,} B"
    if count < 1e6:
        return f"{count / 1e3:,.0f} kB"
    return f"{count / 1e6:.2g} MB" if count < 99.5e6 else f"{count / 1e6:,.0f} MB"


def memory_text(count: int) -> str:
    """An amount of memory for a person: `95 MiB`."""
    return f"{count / 2**20:,.0f} MiB"


def seconds_text(seconds: float) -> str:
    """A time for a person: `8.1 us`, `6.43 ms`, `1.29 s`."""
    if seconds < 1e-5:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def rate_text(per_second: float) -> str:
    """A rate for a person, never rounded to 0: `1,790`, `24.6`, `0.167`."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def times_text(ratio: float) -> str:
    """A ratio for a person, never rounded to 0: `12.3`, `1.26`, `0.0041`."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
