"""What both benchmarks' reports are made of: distributions of times, and the machine that they were taken on."""

from __future__ import annotations

from typing import Literal

from orchestrator.machine.cpus import CpuShare
from orchestrator.machine.cuda_devices import CudaDevices
from orchestrator.spec.strict import Strict

__all__ = ["MeasuredOn", "Objective", "Times", "WarmUp"]

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


class WarmUp(Strict):
    """Whether warming up settled, and in how many windows."""

    settled: bool
    windows: int


class MeasuredOn(Strict):
    """The part of a machine that something was measured on.

    Attributes:
        cpus: how many there were.
        cpus_wanted: how many the spec asks for.
        threads: of each runtime or server.
        how: both numbers in words.
        accelerators: names of the GPUs; None where the CPU computes.
        driver: the version of the GPUs' driver; None where the CPU computes.
    """

    cpus: int
    cpus_wanted: float
    threads: int
    how: str
    accelerators: tuple[str, ...] | None
    driver: str | None

    @classmethod
    def of(cls, share: CpuShare, devices: CudaDevices | None, count: int = 1) -> MeasuredOn:
        """What a report says of a measurement.

        Args:
            share: the CPUs.
            devices: the machine's GPUs; None where the CPU computes.
            count: how many of the GPUs were used, the first ones.
        """
        return cls(
            cpus=len(share.cpus),
            cpus_wanted=share.wanted,
            threads=share.threads,
            how=share.how,
            accelerators=None if devices is None else tuple(devices.names[:count]),
            driver=None if devices is None else devices.driver,
        )
