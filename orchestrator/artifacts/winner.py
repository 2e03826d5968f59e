"""The document that `select` leaves for all that follows: what is deployed, and nothing that was only measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.spec.signature import Signature
from orchestrator.steps.runtime_options import RuntimeOptions

__all__ = ["Winner"]


class Winner(CandidateIdentity, Document):
    """The winner, in values that noise does not move: a new measurement with the same winner changes nothing downstream.

    Attributes:
        options: how the backend runs the variant.
        max_batch_size: rows that the server puts together at most.
        max_delay: seconds that a request waits for others at most.
        startup_seconds: a generous bound on starting the server.
        model_digest: of the variant's folder.
        tools: package → version, of everything that the backend needs.
    """

    NAME: ClassVar[str] = "winner"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "winner.json"

    options: RuntimeOptions
    signature: Signature
    max_batch_size: int
    max_delay: float
    startup_seconds: int
    model_digest: str
    tools: Mapping[str, str]
