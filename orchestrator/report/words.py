"""Numbers of a report in words."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.artifacts.measurement import times_text
from orchestrator.report.model import Estimate

__all__ = ["between", "factor", "limit_text", "percent", "time_text"]


def factor(ratio: float) -> str:
    """How many times as fast: `11.2x`, `0.68x`."""
    return f"{ratio:.1f}x" if ratio >= 1 else f"{times_text(ratio)}x"


def time_text(seconds: float) -> str:
    """A time with three digits: `21.7 µs`, `6.43 ms`, `1.29 s`; times of one table may differ by a factor of 10,000."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def limit_text(seconds: float) -> str:
    """A limit as somebody has set it, without digits that nobody wrote: `20 ms`, `1.5 s`."""
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share without needless digits: `99 %`, `99.61 %`."""
    return f"{share * 100:.4g} %"


def between(found: Estimate, text: Callable[[float], str]) -> str:
    """The interval in words, such as `95 % interval 5.90 to 7.00 ms`; empty if none is known."""
    low = "" if found.low is None else text(found.low)
    high = "" if found.high is None else text(found.high)
    if low and high:
        return f"95 % interval {low} to {high}"
    return f"at least {low} at 95 %" if low else ""
