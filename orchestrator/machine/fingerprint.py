"""The machine's fingerprint: everything that measurements depend on, except what changes from day to day."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import TypedDict

from orchestrator.machine.cpus import usable_cpus

__all__ = ["Fingerprint", "fingerprint"]


class Fingerprint(TypedDict):
    """The identity of a machine for measurements."""

    architecture: str
    processor: str
    instructions: str
    cpus: float


@cache
def fingerprint() -> Fingerprint:
    """The processor, a digest of its instruction sets, and the number of CPUs that this process may use by affinity and quota.

    The kernel, the load and the free memory are left out: they change from day to day, and yesterday's measurement on the same
    processor is still valid.
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
