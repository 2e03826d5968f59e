"""The document that `select` gets from the engine: how each candidate's steps ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict
from orchestrator.steps.context import Ending, StepKind

__all__ = ["Fates", "StepFate"]


class StepFate(Strict):
    """How one step ended.

    Attributes:
        kind: of the step.
        status: `skipped` where a step that it needs failed.
        ending: how its worker ended; None for a step that was skipped.
        error: why it is not done; None for a step that is. Without notes, which name files of one machine.
    """

    kind: StepKind
    status: Literal["done", "failed", "skipped"]
    ending: Ending | None
    error: Diagnostic | None

    @classmethod
    def of(
        cls,
        kind: StepKind,
        status: Literal["done", "failed", "skipped"],
        ending: Ending | None,
        error: Diagnostic | None,
    ) -> StepFate:
        """The fate of a step that ended like this."""
        kept = None if error is None else replace(error, span=None, label="", notes=())
        return cls(kind=kind, status=status, ending=ending, error=kept)


class Fates(Document):
    """The fates of all candidates' steps.

    Attributes:
        steps: step id → its fate, of every step that belongs to a candidate.
    """

    NAME: ClassVar[str] = "fates"
    VERSION: ClassVar[int] = 2
    FILE: ClassVar[str] = "fates.json"

    steps: Mapping[str, StepFate]
