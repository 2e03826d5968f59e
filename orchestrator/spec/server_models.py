"""The keys of `serving:` that decide what a server takes and from whom."""

# No `from __future__ import annotations`: see models.py.
from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.spec.strict import Strict
from orchestrator.spec.types import Duration, Size

__all__ = ["Limits"]


def _body(size: int) -> int:
    if not 2**10 <= size <= 2**31:
        raise ValueError("expected a size from 1Ki to 2Gi")
    return size


def _timeout(seconds: float) -> float:
    if not 0.001 <= seconds <= 3600:
        raise ValueError("expected a duration from 1ms to 1h")
    return seconds


class Limits(Strict):
    """What the server refuses; what is not set is chosen by mlo."""

    max_body: Annotated[Size, AfterValidator(_body)] | None = Field(
        default=None, description="The largest request, from 1Ki to 2Gi.", examples=["16Mi"]
    )
    max_connections: int | None = Field(
        default=None,
        ge=16,
        le=2**20,
        description="HTTP connections at the same time; probes and `mlo` itself need a few of them.",
    )
    request_timeout: Annotated[Duration, AfterValidator(_timeout)] | None = Field(
        default=None,
        description="How long a request may take to arrive, and again to be answered; from 1ms to 1h.",
        examples=["10s"],
    )
    queue: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description="Rows that may wait while the model is busy; more are refused at once.",
    )
