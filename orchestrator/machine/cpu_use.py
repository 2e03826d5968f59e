"""How busy some CPUs of this machine have been, whoever used them: what else ran while something was measured."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CpuTime", "cpu_time"]

_IDLE = 3
_WAITING = 4
_GUESTS = 8
"""Columns of a line of `/proc/stat` after its name (proc(5)); the time of guests is part of that of users."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Of some CPUs since the machine started, seconds of all of them together.

    Attributes:
        busy: in which they ran something, or the host of a virtual machine had taken them.
        total: that have passed.
    """

    busy: float
    total: float


def cpu_time(cpus: tuple[int, ...], stat: Path = Path("/proc/stat")) -> CpuTime | None:
    """The time of these CPUs so far; None where the kernel does not tell it.

    Args:
        cpus: their numbers.
        stat: `/proc/stat`.
    """
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    ticks = {name: [int(each) for each in counts] for name, *counts in map(str.split, lines) if name.startswith("cpu")}
    rows = [ticks.get(f"cpu{number}", []) for number in cpus]
    if not rows or any(len(row) <= _WAITING for row in rows):
        return None
    second = os.sysconf("SC_CLK_TCK")
    total = sum(sum(row[:_GUESTS]) for row in rows)
    idle = sum(row[_IDLE] + row[_WAITING] for row in rows)
    return CpuTime((total - idle) / second, total / second)
