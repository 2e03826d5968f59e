"""Runs a program as its child, and kills all processes of that program when it or the parent ends.

    python -I -S guard.py PARENT_PID COMMAND [ARGUMENT...]

It runs between the engine and a step, and between the supervisor and a server, because both may have child processes
(measured runtimes, TorchServe's workers) that the kernel's parent-death signal does not reach. It is started by its path, in
isolated mode, and only imports the standard library, so it takes a few milliseconds and does not depend on the environment.

Signals: SIGTERM and SIGINT are passed on to the program; SIGUSR1 (sent by the kernel when the parent dies, or by the
parent) kills. It ends as the program ended: with its exit code, or by the same signal.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _children() -> list[int]:
    """The children of this process, including orphaned descendants, because this process is their subreaper."""
    mine = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        # The command's name is in parentheses and may contain any character; the fields start after the last parenthesis.
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent == os.getpid():
            mine.append(int(entry.name))
    return mine


def _sweep() -> None:
    """Kill all remaining descendants, generation by generation."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # it still exists: only this process reaps it
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _reaped(program: int) -> int | None:
    """Reap ended processes; returns the program's wait status if it is one of them."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == program:
            return status


def _become(command: list[str], guard: int) -> None:
    """Turn the forked child into the program."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    for changed_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(changed_by_python, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _end_like(status: int) -> int:
    """End as the program did."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), -code)
    return code


def main(arguments: list[str]) -> int:
    """Start the command, wait for its end, kill its descendants. The first argument is the process that must stay alive."""
    parent, command = int(arguments[0]), arguments[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != parent:  # it died before the line above took effect
        return 1
    guard = os.getpid()
    program = os.fork()
    if program == 0:
        _become(command, guard)
    while True:
        received = signal.sigwait(_WATCHED)
        if received == signal.SIGCHLD:
            status = _reaped(program)
            if status is not None:
                _sweep()
                return _end_like(status)
        else:
            os.kill(program, signal.SIGKILL if received == signal.SIGUSR1 else signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
