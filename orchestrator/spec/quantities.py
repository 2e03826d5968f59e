"""Durations, sizes, rates and numbers of CPUs as a spec writes them: 0.009 seconds are `9ms`."""

from __future__ import annotations

import math
from decimal import Decimal

__all__ = [
    "SECONDS",
    "SIZES",
    "cpu_quantity",
    "cpus_text",
    "duration_text",
    "memory_quantity",
    "percent_text",
    "rate_text",
    "size_text",
]

SECONDS = {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
"""Unit → seconds; exact, because 9 times the binary number nearest to 0.001 is not 0.009."""

SIZES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
"""Unit → bytes."""


def duration_text(seconds: float) -> str:
    """Such as `9ms`, `1.5s`, `5m`: whole minutes and hours as such, else the largest unit that is not more than it; `0` for none."""
    exact = Decimal(repr(float(seconds)))
    if not exact:
        return "0"
    for unit in ("h", "m"):
        if exact % SECONDS[unit] == 0:
            return _with_unit(exact / SECONDS[unit], unit)
    unit = next((unit for unit in ("s", "ms") if exact >= SECONDS[unit]), "us")
    return _with_unit(exact / SECONDS[unit], unit)


def size_text(size: int) -> str:
    """Such as `2Gi` or `100M`: the unit that leaves the smallest whole number."""
    whole = [(size // each, unit) for unit, each in SIZES.items() if size and size % each == 0]
    return str(size) if not whole else "".join(map(str, min(whole)))


def rate_text(per_second: float) -> str:
    """Such as `200/s`."""
    return _with_unit(Decimal(repr(float(per_second))), "/s")


def percent_text(share: float) -> str:
    """Such as `10%` for 0.1."""
    return _with_unit(Decimal(repr(float(share))) * 100, "%")


def cpus_text(cpus: float) -> int | float:
    """2 for 2.0; 0.5 stays."""
    return int(cpus) if cpus == int(cpus) else cpus


def cpu_quantity(cpus: float) -> str:
    """CPUs as Kubernetes writes them: `2`, `500m`."""
    return str(int(cpus)) if cpus == int(cpus) else f"{math.ceil(cpus * 1000)}m"


def memory_quantity(size: int) -> str:
    """Bytes as Kubernetes writes them: `2Gi`, `512Mi`, or all of the digits."""
    for unit, factor in (("Gi", 2**30), ("Mi", 2**20)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _with_unit(number: Decimal, unit: str) -> str:
    text = f"{number:f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"
