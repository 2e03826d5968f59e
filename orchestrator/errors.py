"""Every error that a user can meet, and the exit code of each.

    MloError                 1   something that was asked for failed
    ├── UsageError          64   the command line is wrong
    ├── SpecInvalid         65   a spec or platform file is wrong
    ├── StepFailed           1   a step of the plan failed
    ├── DeployFailed         1   a release did not come up; the former one still serves
    ├── StoreFailed          1   the store or the state cannot be read or written
    ├── Busy                75   somebody else holds a lock; try again
    ├── StalePlan           75   what a saved plan was made from has moved; plan again
    └── Interrupted        130   Ctrl-C

Anything else that reaches the top is a bug in mlo: exit code 70.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic

if TYPE_CHECKING:
    from collections.abc import Sequence

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
]


class ExitCode(IntEnum):
    """What the process tells its caller; the contract stands in docs/commands.md."""

    DONE = 0
    FAILED = 1
    CHANGES_PENDING = 2
    USAGE = 64
    INVALID_SPEC = 65
    BUG = 70
    TRY_AGAIN = 75
    INTERRUPTED = 130


class MloError(Exception):
    """A failure that says what, where, why and what to do; never shown as a traceback.

    Args:
        diagnostics: one or several; the first is the headline.

    Attributes:
        also: what was done before it failed, for the JSON document of errors.
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
    """A step of the plan failed, or no candidate is left."""


class DeployFailed(MloError):
    """A release did not come up or did not answer as proven; the former one still serves."""


class StoreFailed(MloError):
    """The store or the state cannot be read or written."""


class Busy(MloError):
    """Somebody else holds the lock."""

    exit_code = ExitCode.TRY_AGAIN


class StalePlan(MloError):
    """What a saved plan was made from has moved since."""

    exit_code = ExitCode.TRY_AGAIN


class Interrupted(MloError):
    """The user pressed Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED
