"""The document of `select` for `render`: how much a replica needs, and how many of them, as far as it was measured."""

from __future__ import annotations

from typing import ClassVar

from orchestrator.artifacts.document import Document

__all__ = ["Sizing"]


class Sizing(Document):
    """What the winner's replicas are given, in coarse steps: measuring the same server again mostly gives the same.

    It is apart from `winner.json`, because nothing of it is in the image.

    Attributes:
        memory_request: bytes that one replica needs.
        cpu_request: CPUs that one replica needs.
        longest_request: seconds that a stopping server may wait for its last requests; None if no server was measured.
        target_cpu_percent: of `cpu_request`, above which another replica should start.
        proven_rate: requests per second of one replica; None if nothing was proven over the wire.
        replicas: that hold `slo.total_throughput`; None if the spec does not ask for it, or the rate of one is not known.
        p99_limit: `slo.p99_latency`, seconds; None if there is none.
    """

    NAME: ClassVar[str] = "sizing"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "sizing.json"

    memory_request: int
    cpu_request: float
    longest_request: int | None
    target_cpu_percent: int
    proven_rate: float | None
    replicas: int | None
    p99_limit: float | None
