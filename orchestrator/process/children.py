"""Common to all child processes: the guard that starts them, and the name of the signal that ended them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ended_by", "guarded"]

_GUARD = str(Path(__file__).with_name("guard.py"))


def guarded(command: Sequence[str]) -> list[str]:
    """The command with a guard, which kills all processes of the command when this process ends for any reason."""
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
