"""A decision as people read it: the table of candidates, why the winner won, what became of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.artifacts.measurement import NotMeasured, bytes_text, memory_text, rate_text, seconds_text, times_text
from orchestrator.cli import console
from orchestrator.cli.columns import wrapped_line
from orchestrator.cli.gates_text import gates_table, verification_table
from orchestrator.images.evidence import Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.artifacts.decision import CandidateFate, DecidedCandidate, Decision
    from orchestrator.artifacts.measurement import Objective
    from orchestrator.artifacts.runtime_report import RuntimeMeasurement
    from orchestrator.artifacts.server_report import OpenLoop, Saturation, ServerMeasurement, WireResult
    from orchestrator.diagnostics import Diagnostic

__all__ = ["candidate_text", "decision_text", "refusal_text"]

_COLOURS: dict[CandidateFate, str | None] = {
    "won": "green",
    "lost": None,
    "refused": None,
    "dominated": None,
    "did not help": None,
    "same as another": None,
    "not tried": None,
}
_HEADER = ("candidate", "backend", "fate", "run p50", "speed-up", "load", "memory", "p99", "rows/s")
_NOT_MEASURED = "not measured"
_NUMBERS = frozenset(range(3, len(_HEADER)))


def decision_text(decision: Decision, image: str | None = None) -> str:
    """The decision as a table, followed by the reason for each candidate, the winner first if there is one.

    Args:
        decision: the decision.
        image: of the winner with its size, a sentence without a full stop; None if none was built, or it is told elsewhere.
    """
    order = sorted(decision.candidates, key=lambda c: (c.fate != "won", c.server is None, c.runtime is None))
    baseline = None if decision.baseline is None else decision.baseline.measured
    rows = [_row(candidate, decision.objective) for candidate in order]
    if baseline is not None:
        rows.append(("(baseline)", "framework", "original model", *_runtime_cells(baseline, "1.0x"), "", ""))
    lines = [
        console.table(_HEADER, rows, right=_NUMBERS),
        *([_legend(decision)] if baseline is not None or any(c.runtime for c in order) else []),
        *verification_table(order),
        "",
        *(line for c in order for line in _fate(c)),
    ]
    winner = next((c for c in order if c.fate == "won"), None)
    if winner is not None and (proven := _proven(winner)):
        lines += _wrapped(winner.candidate, proven[0])
    if winner is not None and winner.server is not None:
        lines += _wrapped("start", f"{_start(winner.server)}, {_where(winner.server)}")
    if image is not None:
        lines += _wrapped("image", image)
    lines += _one_by_one(decision)
    lines += [line for note in decision.notes for line in _wrapped("note", note)]
    return "\n".join(lines)


def refusal_text(refusal: Diagnostic) -> str:
    """Why nothing won, and what to do."""
    lines = _wrapped(f"nothing won [{refusal.code}]", refusal.sentence)
    return "\n".join([*lines, *_help(refusal)])


def _one_by_one(decision: Decision) -> list[str]:
    if decision.one_by_one is None:
        return []
    return _wrapped("requests are answered one by one", decision.one_by_one)


def candidate_text(candidate: DecidedCandidate, decision: Decision) -> str:
    """One candidate: its fate, the reason, and its measurements.

    Args:
        candidate: one of the decision.
        decision: whose it is.
    """
    lines = _reason(f"{candidate.candidate} on {candidate.backend}: {candidate.fate}", candidate)
    lines += _one_by_one(decision)
    runtime, server = candidate.runtime, candidate.server
    if candidate.gates:
        lines += ["", "Verified against the original model:", *gates_table(candidate.gates, candidate.accuracy)]
    if runtime is not None:
        cells = [
            (
                str(batch.rows),
                *map(_ms, (batch.p50, batch.p90, batch.p95, batch.p99)),
                rate_text(batch.rows_per_second),
                _ms(batch.without_warm_up.first) if batch.without_warm_up is not None else "",
            )
            for batch in runtime.batches
        ]
        header = ("batch", "p50", "p90", "p95", "p99", "rows/s", "first call")
        lines += ["", "In the runtime:", console.table(header, cells, right=frozenset(range(7)))]
        lines.append(f"load {_ms(runtime.load_seconds)}, peak memory {memory_text(runtime.peak_rss)}")
    if server is not None:
        lines += ["", f"In the server, {_where(server)}, over the wire:", *_wire_lines(server)]
        lines += [f"peak memory {memory_text(server.peak_rss)}", _start(server)]
        if server.image is not None:
            lines.append(f"image: {Sizes(**server.image.model_dump()).text}")
        lines += _proven(candidate)
    return "\n".join(lines)


def _where(server: ServerMeasurement) -> str:
    return "in a container with its limits" if server.inside == "container" else "as a process"


def _start(server: ServerMeasurement) -> str:
    ready, first = _ms(server.ready_seconds), _ms(server.first_request_seconds)
    return f"ready {ready} after it was started, the first request took {first}"


def _proven(candidate: DecidedCandidate) -> list[str]:
    """What one replica is proven to hold, and what that costs."""
    rate, cost = candidate.proven_rate, candidate.cost_per_million
    if rate is None:
        return []
    price = "" if cost is None else f", {cost:.3g} per million requests"
    return [f"one replica is proven to hold {rate_text(rate)}/s{price}"]


def _wire_lines(server: ServerMeasurement) -> Iterator[str]:
    loop, full, limit = server.on_schedule, server.saturated, server.generator
    yield from _calls(server)
    if loop is None:
        yield f"on a schedule: {_not_measured(server.open_loop)}"
    else:
        p99 = f"p99 {_ms(loop.p99)}" + (f" (the slowest of {loop.samples} answers)" if loop.samples < 100 else "")
        yield f"at {rate_text(loop.rate)}/s: p50 {_ms(loop.p50)}, p95 {_ms(loop.p95)}, {p99}"
    if full is None:
        yield f"at saturation: {_not_measured(server.saturation)}"
        return
    if (knee := server.known_knee) is not None and knee.rate != (loop.rate if loop is not None else None):
        yield f"at the knee, {rate_text(knee.rate)}/s: p99 {_ms(knee.p99)}, {knee.cpus:.2g} CPUs"
    if knee is not None and knee.unsearched:
        yield f"the knee was not searched further than {rate_text(knee.rate)}/s: {knee.unsearched}"
    yield f"at saturation, {full.connections} connections: {full.rows_text}, p99 {_ms(full.p99)}"
    if full.cpu_seconds_per_request is not None:
        yield f"CPU time per request at saturation: {_ms(full.cpu_seconds_per_request)}"
    own = _ms(full.generator_cpu_seconds_per_request)
    by_itself = "unknown" if limit is None else f"{rate_text(limit.requests_per_second)}/s"
    yield f"the load generator: {own} of CPU time per request; its own limit is {by_itself}"


def _calls(server: ServerMeasurement) -> Iterator[str]:
    """Single calls over each wire, and what of them is the model's time."""
    header = ("wire", "request", "one call", "model", "around it", "rows/s")
    cells = [
        (
            each.name + (" *" if each.wire == server.wire and len(server.wires) > 1 else ""),
            bytes_text(each.request_bytes),
            _ms(each.call) or "refused",
            _ms(each.model),
            _ms(each.around),
            _rate(each, server),
        )
        for each in server.wires
    ]
    yield console.table(header, cells, right=frozenset(range(1, len(header))))
    if len(server.wires) > 1:
        yield "* what follows was measured so; `serving.wire` selects another"
    yield from (f"{each.name}: {each.refused}" for each in server.wires if each.refused)


def _rate(wire: WireResult, server: ServerMeasurement) -> str:
    full = server.saturated
    if wire.wire == server.wire and full is not None:
        return f"{'≥ ' if full.rows_per_second is None else ''}{rate_text(full.at_least)}"
    return "" if wire.rows_per_second is None else f"≥ {rate_text(wire.rows_per_second)}"


def _not_measured(found: OpenLoop | Saturation | NotMeasured) -> str:
    return f"not measured: {found.reason}" if isinstance(found, NotMeasured) else ""


def _row(candidate: DecidedCandidate, objective: Objective) -> tuple[str, ...]:
    server, runtime = candidate.server, candidate.runtime
    fate = candidate.fate
    cells = ("", "", "", "") if runtime is None else _runtime_cells(runtime, _speed_up(runtime, objective))
    wire = ("", "")
    if server is not None:
        loop, full = server.on_schedule, server.saturated
        wire = (
            _NOT_MEASURED if loop is None else _ms(loop.p99),
            _NOT_MEASURED
            if full is None
            else f"{'≥ ' if full.rows_per_second is None else ''}{rate_text(full.at_least)}",
        )
    name = click.style(candidate.candidate, bold=fate == "won")
    return name, candidate.backend, click.style(fate, fg=_COLOURS.get(fate, "yellow")), *cells, *wire


def _runtime_cells(runtime: RuntimeMeasurement, speed_up: str) -> tuple[str, str, str, str]:
    return _ms(runtime.batches[0].p50), speed_up, _ms(runtime.load_seconds), memory_text(runtime.peak_rss)


def _speed_up(runtime: RuntimeMeasurement, objective: Objective) -> str:
    """From the comparison in turns that the fate rests on, not from two medians, so that all that is told of it agrees."""
    against = runtime.against_baseline
    paired = None if against is None else against.for_objective(objective)
    if paired is None or paired.ratio <= 0:
        return ""
    times = 1 / paired.ratio
    return f"{times_text(times) if times < 1 else f'{times:.1f}'}x"


def _legend(decision: Decision) -> str:
    rate = "" if decision.rate is None else f" p99 is over the wire at {rate_text(decision.rate)} requests/s;"
    inside = {c.server.inside for c in decision.candidates if c.server is not None}
    if inside == {"container"}:
        rate += " servers were measured in containers with their limits;"
    elif inside == {"process"}:
        rate += " servers were measured as processes;"
    return click.style(
        f"run p50 (one call with the smallest batch), load and memory are without a server; speed-up is relative to the baseline;"
        f"{rate} rows/s is at saturation.",
        dim=True,
    )


def _fate(candidate: DecidedCandidate) -> list[str]:
    if candidate.fate == "won":
        return _wrapped(f"{candidate.candidate} on {candidate.backend} won", candidate.reason)
    return _reason(f"{candidate.candidate}: {candidate.fate}", candidate)


def _reason(head: str, candidate: DecidedCandidate) -> list[str]:
    """The reason for its fate; for a failure, with the code, and what to do on a line of its own."""
    error = candidate.error
    if error is None:
        return _wrapped(head, candidate.reason)
    return [*_wrapped(f"{head} [{error.code}]", candidate.reason), *_help(error)]


def _help(error: Diagnostic) -> list[str]:
    return [f"    {line}" for line in _wrapped("help", error.remedy)] if error.remedy else []


def _wrapped(head: str, reason: str) -> list[str]:
    """`head: reason`, wrapped to the terminal, further lines indented."""
    first, *rest = wrapped_line(f"{head}: {reason}.", max(40, min(console.width(), 120)) - 4)
    return [first, *(f"    {line}" for line in rest)]


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else seconds_text(seconds)
