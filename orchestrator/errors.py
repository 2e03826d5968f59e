"""All errors shown to users, with their exit codes.

    MloError                 1   the command failed
    ├── UsageError          64   the command line is wrong
    ├── SpecInvalid         65   a spec or platform file is wrong
    ├── StepFailed           1   a step of the plan failed
    ├── DeployFailed         1   a release did not start; the previous one still serves
    ├── StoreFailed          1   the store or the state cannot be read or written
    ├── Busy                75   another command holds a lock; try again
    ├── StalePlan           75   something that a saved plan was made from has changed; plan again
    └── Interrupted        130   Ctrl-C

Anything else that reaches the top is a bug in mlo: exit code 70.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = [
    "Busy",
    "DeployFailed",
    "ExitCode",
    "Interrupted",
    "MloError",
    "SpecInvalid",
    "StalePlan",
    "StepFailed",
    "StoreFailed",
    "UsageError",
    "causes_of",
]


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The exception itself, then those that led to it, however deep libraries have wrapped them."""
    behind: BaseException | None = error
    while behind is not None:
        yield behind
        behind = behind.__cause__ or behind.__context__


class ExitCode(IntEnum):
    """Exit codes of the process; docs/commands.md documents them."""

    DONE = 0
    FAILED = 1
    CHANGES_PENDING = 2
    USAGE = 64
    INVALID_SPEC = 65
    BUG = 70
    TRY_AGAIN = 75
    INTERRUPTED = 130


class MloError(Exception):
    """An error with what, where, why and what to do; never shown as a traceback.

    Args:
        diagnostics: one or several; the first is the headline.

    Attributes:
        also: what was done before the failure, added to the JSON document of errors.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, *diagnostics: Diagnostic) -> None:
        if not diagnostics:
            raise ValueError("an MloError needs at least one diagnostic")
        self.diagnostics: Sequence[Diagnostic] = diagnostics
        self.also: dict[str, Any] = {}
        super().__init__("; ".join(d.message for d in diagnostics))


class UsageError(MloError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class SpecInvalid(MloError):
    """A spec or a platform file is wrong."""

    exit_code = ExitCode.INVALID_SPEC


class StepFailed(MloError):
    """A step of the plan failed, or no candidate is left.

    Attributes:
        explained_in: the folder with the documents that explain the refusal, if the step left any.
    """

    def __init__(self, *diagnostics: Diagnostic, explained_in: Path | None = None) -> None:
        super().__init__(*diagnostics)
        self.explained_in = explained_in


class DeployFailed(MloError):
    """A release did not start or failed its checks; the previous one still serves."""


class StoreFailed(MloError):
    """The store or the state cannot be read or written."""


class Busy(MloError):
    """Another command holds the lock."""

    exit_code = ExitCode.TRY_AGAIN


class StalePlan(MloError):
    """Something that a saved plan was made from has changed."""

    exit_code = ExitCode.TRY_AGAIN


class Interrupted(MloError):
    """The user pressed Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED
