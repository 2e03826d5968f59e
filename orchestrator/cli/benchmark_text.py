"""The results of `mlo benchmark` in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.artifacts.measurement import NotMeasured, rate_text
from orchestrator.artifacts.server_report import P99Level
from orchestrator.cli import console
from orchestrator.measure.endpoint_benchmark import Compared, EndpointResult
from orchestrator.measure.statistics import Comparison
from orchestrator.select.service_level import milliseconds

__all__ = ["as_document", "as_text"]

_PERCENTILES = ("p50", "p90", "p99")


def as_document(
    results: Sequence[EndpointResult], compared: Compared | None, rate: float, inputs: str
) -> dict[str, Any]:
    """The document of `--json`; times in seconds."""
    return {
        "rate": rate,
        "inputs": inputs,
        "endpoints": [_document(result) for result in results],
        "comparison": None if compared is None else asdict(compared),
    }


def _document(result: EndpointResult) -> dict[str, Any]:
    return {
        "endpoint": result.label,
        "wire": result.wire,
        "request_bytes": result.request_bytes,
        "answer_bytes": result.answer_bytes,
        "call": result.call,
        "connections": result.connections,
        "open_loop": result.open_loop.model_dump(mode="json"),
        "saturation": result.saturation.model_dump(mode="json"),
        "level": result.level.model_dump(mode="json"),
        "knee": None if result.knee is None else result.knee.model_dump(mode="json"),
        "refused": dict(result.refused),
        "generator": None if result.generator is None else result.generator.model_dump(mode="json"),
    }


def as_text(results: Sequence[EndpointResult], compared: Compared | None, rate: float, inputs: str) -> str:
    """A table with a row for each endpoint, and what follows from it in sentences."""
    header = ("endpoint", *_PERCENTILES, "p99 (95 %)", "samples", "requests/s", "refused")
    rows = [_row(result) for result in results]
    lines = [
        f"Latency of requests of one row at {rate_text(rate)}/s, and throughput with {_connections(results)} ({inputs}):",
        "",
        console.table(header, rows, right=frozenset(range(1, 8))),
        "",
    ]
    for result in results:
        lines += [f"{result.label}: {remark}" for remark in _remarks(result)]
    if compared is not None:
        lines += _comparison(compared)
    return "\n".join(lines).rstrip()


def _connections(results: Sequence[EndpointResult]) -> str:
    counts = sorted({result.connections for result in results})
    return f"{' and '.join(map(str, counts))} connections"


def _row(result: EndpointResult) -> list[str]:
    loop, saturation = result.open_loop, result.saturation
    if isinstance(loop, NotMeasured):
        times, interval, samples = ["not measured"] * len(_PERCENTILES), "", "0"
    else:
        times = [milliseconds(getattr(loop, name)) for name in _PERCENTILES]
        samples = f"{loop.samples:,}"
        low, high = loop.p99_interval
        interval = f"{milliseconds(low)} to {'?' if high is None else milliseconds(high)}"
    if isinstance(saturation, NotMeasured):
        reached = "not measured"
    elif saturation.rows_per_second is None:
        reached = f"at least {rate_text(saturation.at_least)}"
    else:
        reached = rate_text(saturation.rows_per_second)
    return [result.label, *times, interval, samples, reached, str(sum(result.refused.values()))]


def _remarks(result: EndpointResult) -> list[str]:
    """What the table does not say of an endpoint, one sentence each."""
    sizes = f"{result.request_bytes:,} bytes of a request, {result.answer_bytes:,} of an answer"
    lines = [f"{result.wire}, {sizes}; a single call takes {milliseconds(result.call)}."]
    for part, what in ((result.open_loop, "latency"), (result.saturation, "throughput")):
        if isinstance(part, NotMeasured):
            lines.append(f"the {what} was not measured: {part.reason}.")
    if result.refused:
        why = ", ".join(f"{count} with {reason}" for reason, count in sorted(result.refused.items()))
        lines.append(f"refused as too busy: {why}.")
    if result.level.p99 is not None:
        lines.append(_level(result.level.p99))
    if result.level.p99 is not None and result.knee is not None and not isinstance(result.knee, NotMeasured):
        further = f"; it was not searched further: {result.knee.unsearched}" if result.knee.unsearched else ""
        lines.append(f"the largest rate that was proven to hold it is {rate_text(result.knee.rate)}/s{further}.")
    if not isinstance(result.open_loop, NotMeasured):
        late = result.open_loop.generator_delay.p99
        if late > 0.1 * result.open_loop.p99:
            lines.append(
                f"the load generator itself was up to {milliseconds(late)} late (p99), which is part of the latency."
            )
    return lines


def _level(level: P99Level) -> str:
    limit, counted = milliseconds(level.limit), f"{level.over} of {level.samples:,} requests took longer"
    match level.status:
        case "met":
            return f"p99 of at most {limit} is met with {level.confidence:.0%} confidence ({counted})."
        case "missed":
            return f"p99 of at most {limit} is missed with {level.confidence:.0%} confidence ({counted})."
        case _:
            why = (
                "the load generator was late" if level.generator_late else f"{counted}; measure longer with --duration"
            )
            return f"p99 of at most {limit} is neither proven nor refuted ({why})."


def _comparison(compared: Compared) -> list[str]:
    lines = [""]
    if compared.latency is None:
        lines.append("Latency: it is not compared, since most requests of a round were refused.")
    else:
        lines.append(f"Latency: the second one's median is {_ratio(compared.latency)}")
    if compared.throughput is not None:
        lines.append(f"Time per request with all connections busy: the second one's is {_ratio(compared.throughput)}")
    match compared.slower_tail:
        case None:
            lines.append("Slowest answers: there are too few to tell the two apart.")
        case 0:
            lines.append("Slowest answers: no difference is proven.")
        case number:
            which = "first" if number == 1 else "second"
            lines.append(f"Slowest answers: those of the {which} one are slower, with 95 % confidence.")
    return lines


def _ratio(compared: Comparison) -> str:
    if compared.high is None:
        return (
            f"{compared.ratio:.2f} times the first one's; {compared.rounds} rounds are too few to prove a difference."
        )
    interval = f"{compared.ratio:.2f} times the first one's (95 %: {compared.low:.2f} to {compared.high:.2f})"
    verdict = "it is faster" if compared.faster else "it is slower" if compared.slower else "no difference is proven"
    return f"{interval}: {verdict}."
