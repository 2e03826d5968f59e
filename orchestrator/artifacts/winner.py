"""The document of `select` for the following steps: what is deployed, without measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from orchestrator.artifacts.candidate import CandidateIdentity
from orchestrator.artifacts.document import Document
from orchestrator.spec.signature import Signature
from orchestrator.steps.runtime_options import RuntimeOptions

__all__ = ["Winner"]


class Winner(CandidateIdentity, Document):
    """The winner, without values that depend on noise: measuring again with the same winner changes nothing downstream.

    Attributes:
        options: how the backend runs the variant.
        max_batch_size: the maximum rows per batch of the server.
        max_delay: the maximum seconds that a request waits for others.
        startup_seconds: a generous limit on the startup time of the server.
        model_digest: of the variant's folder.
        tools: package → version, for everything that the backend needs.
    """

    NAME: ClassVar[str] = "winner"
    VERSION: ClassVar[int] = 2
    FILE: ClassVar[str] = "winner.json"

    options: RuntimeOptions
    signature: Signature
    max_batch_size: int
    max_delay: float
    startup_seconds: int
    model_digest: str
    tools: Mapping[str, str]
