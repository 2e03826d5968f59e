"""Whether a candidate's server holds the service level, and how far it is from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["distance", "distance_text", "milliseconds", "service_level"]

Level = Literal["met", "missed", "inconclusive", "none"]


def service_level(server: Mapping[str, Any]) -> Level:
    """`met` when every part of it is; `none` when the spec asks for nothing.

    Args:
        server: a row of the server benchmark's report; measured.
    """
    p99, throughput = server["slo"]["p99"], server["slo"]["throughput"]
    if p99 is None and throughput is None:
        return "none"
    short = throughput is not None and not throughput["met"]
    if (p99 is not None and p99["status"] == "missed") or (short and "reason" not in throughput):
        return "missed"
    return "inconclusive" if short or (p99 is not None and p99["status"] == "inconclusive") else "met"


def distance(server: Mapping[str, Any]) -> dict[str, float | None]:
    """How far it is: seconds of p99 over the limit and requests per second short; negative is room to spare."""
    p99, throughput = server["slo"]["p99"], server["slo"]["throughput"]
    return {
        "p99_seconds": None if p99 is None else server["open_loop"]["p99"] - p99["limit"],
        "throughput": None if throughput is None else throughput["wanted"] - throughput["reached"],
    }


def distance_text(server: Mapping[str, Any]) -> str:
    """The distance in words, such as `p99 31.2 ms at 200/s, 11.2 ms over the limit of 20 ms`."""
    if server["fate"] != "measured":
        return f"not measured over the wire: {server['reason']}"
    said = []
    if (p99 := server["slo"]["p99"]) is not None:
        reached, limit = server["open_loop"]["p99"], p99["limit"]
        side = "over" if reached > limit else "below"
        text = (
            f"p99 {milliseconds(reached)} at {server['open_loop']['rate']:.4g}/s, "
            f"{milliseconds(abs(reached - limit))} {side} the limit of {milliseconds(limit)}"
        )
        if refused := server["refused"]:
            what = ", ".join(f"{count} with {said}" for said, count in sorted(refused.items()))
            text += f", and it was too busy for {sum(refused.values())} of {p99['samples']} requests: {what}"
        if "reason" in p99:
            text += f", not proven: {p99['reason']}"
        elif p99["status"] == "inconclusive":
            text += f", not proven: it wants at least {p99['samples_wanted']} more samples"
        elif p99["status"] == "missed" and reached <= limit:
            text += f", yet {p99['over']} of {p99['samples']} requests were over it"
        said.append(text)
    if (throughput := server["slo"]["throughput"]) is not None and not throughput["met"]:
        late = f", not proven: {throughput['reason']}" if "reason" in throughput else ""
        said.append(f"{throughput['reached']:.4g}/s of {throughput['wanted']:.4g}/s{late}")
    return "; ".join(said)


def milliseconds(seconds: float) -> str:
    """Such as `8.1 ms`; three digits."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
