"""Common to all child processes: the guard that starts them, and the name of the signal that ended them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["ended_by", "guarded", "start_logged"]

_GUARD = str(Path(__file__).with_name("guard.py"))


def guarded(command: Sequence[str]) -> list[str]:
    """The command with a guard, which kills all processes of the command when this process ends for any reason."""
    return [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), *command]


def start_logged(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str],
    cwd: Path | str,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a child without standard input, whose output is appended to a file.

    Args:
        command: its argument list.
        log: the file.
        env: its whole environment.
        cwd: its working directory.
        pass_fds: the further descriptors that it inherits.
        new_session: whether Ctrl-C does not reach it.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=new_session,
        )


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
