"""The one failure of everything that is measured, in its process, over the pipe to its parent, and in reports."""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.diagnostics import Diagnostic
from orchestrator.process.memory import format_bytes
from orchestrator.spec.quantities import size_text
from orchestrator.steps.context import Ending

__all__ = ["NEEDS", "MeasureError", "above_limit", "out_of_memory"]


NEEDS = "needs at least"
"""In the message about something that was ended for its memory."""


class MeasureError(Exception):
    """A measured process or server did not do what it was asked.

    Args:
        ending: how it ended; after `REFUSED` and `EXCEPTION` it is still running, and may be after `MEMORY`.
        diagnostic: what happened, as the process reported it or as its end shows.
    """

    def __init__(self, ending: Ending, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.sentence)
        self.ending = ending
        self.diagnostic = diagnostic

    @property
    def fate(self) -> Literal["out of memory", "failed"]:
        """What becomes of the candidate that is measured."""
        return "out of memory" if self.ending is Ending.MEMORY else "failed"

    def as_json(self) -> dict[str, Any]:
        """The form in which a process replies with it."""
        return {"ending": self.ending.value, "diagnostic": self.diagnostic.as_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> MeasureError:
        """The error of that form."""
        return cls(Ending(document["ending"]), Diagnostic.from_json(document["diagnostic"]))


def above_limit(peak: int, limit: int, what: str = "it") -> MeasureError:
    """What is raised where something was ended because it needs more memory than `hardware.memory` allows.

    Args:
        peak: what it had when it was ended, bytes; it may need more.
        limit: `hardware.memory`, bytes.
        what: needs it.
    """
    return out_of_memory(f"`hardware.memory` is {size_text(limit)}", f"{what} {NEEDS} {format_bytes(peak)}")


def out_of_memory(cause: str, message: str = "out of memory") -> MeasureError:
    """What is raised where something needs more memory than `hardware.memory` allows, or than there is."""
    remedy = "raise `hardware.memory`, or set smaller `benchmark.batch_sizes`"
    return MeasureError(Ending.MEMORY, Diagnostic("E403", message, cause=cause, remedy=remedy))
