"""The instruction sets of this machine's CPU, and what they mean for int8."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["ARM", "CPUINFO", "DOT_PRODUCTS", "X86", "cpu_flags", "saturates"]

CPUINFO = Path("/proc/cpuinfo")
ARM = frozenset({"aarch64", "arm64"})
X86 = frozenset({"x86_64", "AMD64"})
DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
"""Flags of x86 CPUs that add products of 8 bits in 32 bits."""


def cpu_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The CPU's flags as Linux names them, such as `avx2`; empty where there is no such file.

    Args:
        cpuinfo: `/proc/cpuinfo`.
    """
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(
        flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()
    )


def saturates(flags: frozenset[str], architecture: str | None = None) -> bool:
    """Whether weights of 8 bits may saturate: x86 CPUs without VNNI add pairs of 8-bit products in 16 bits.

    Args:
        flags: of the CPU.
        architecture: as `platform.machine()` names it; None for this machine's.
    """
    return (architecture or platform.machine()) in X86 and not flags & DOT_PRODUCTS
