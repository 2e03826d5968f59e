"""What is the same for every child process: the guard that stands before it, and words for how it ended."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ended_by", "guarded"]

_GUARD = str(Path(__file__).with_name("guard.py"))


def guarded(command: Sequence[str]) -> list[str]:
    """The command behind a guard, which kills all that the command started when this process ends, however it ends."""
    return [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), *command]


def ended_by(returncode: int) -> str | None:
    """The signal that ended a process, such as `SIGKILL`; None if it ended by itself.

    Args:
        returncode: as subprocess has it.
    """
    if returncode >= 0:
        return None
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal
        return f"signal {-returncode}"
