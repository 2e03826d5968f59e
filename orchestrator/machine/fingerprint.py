"""The machine's fingerprint: what a measurement depends on, and nothing that changes by itself."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import TypedDict

from orchestrator.machine.cpus import usable_cpus

__all__ = ["Fingerprint", "fingerprint"]


class Fingerprint(TypedDict):
    """What identifies a machine for measurements."""

    architecture: str
    processor: str
    instructions: str
    cpus: float


@cache
def fingerprint() -> Fingerprint:
    """Processor, its instruction sets (digest), and how many CPUs this process may use, by affinity and quota.

    The kernel, the load and the free memory are left out: they change from day to day, and a measurement that was
    made yesterday on the same processor still holds.
    """
    model, flags = platform.processor() or platform.machine(), ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []  # not Linux: the names above must do
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "CPU part"}:
            model = value.strip()
        elif name.strip() in {"flags", "Features"}:
            flags = " ".join(sorted(value.split()))
            break
    return {
        "architecture": platform.machine(),
        "processor": model,
        "instructions": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "cpus": usable_cpus(),
    }
