"""Runs a command on given CPUs and ends it with its parent: `python -I -S confine.py PARENT SIGNAL CPUS COMMAND...`.

It is run by its path and only uses the standard library, so it takes milliseconds. It replaces itself by the command (execve),
which inherits both settings. They are made here, in the child, because code that runs between fork and exec (`preexec_fn`) can
deadlock in a parent with threads.

Linux only; elsewhere the command runs unconfined.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Confine this process and become the command; never returns.

    Args:
        argv: the parent's process id, the number of the signal to get when it ends, comma-separated CPU numbers, the command.
    """
    parent, number, cpus, *command = argv
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    if os.getppid() != int(parent):
        sys.exit("the parent process is gone")
    os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
