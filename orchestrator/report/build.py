"""Makes the report of the evidence: numbers are taken from the documents, and only put beside each other here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from orchestrator.artifacts.decision import DecidedCandidate, Decision
from orchestrator.artifacts.measurement import bytes_text, memory_text, rate_text
from orchestrator.artifacts.runtime_report import RuntimeMeasurement
from orchestrator.artifacts.server_report import ServerMeasurement
from orchestrator.report.distributions import distributions
from orchestrator.report.evidence import Evidence
from orchestrator.report.front import on_front
from orchestrator.report.model import Batch, Estimate, Fact, Plane, Point, Report, Row, Start, Tried
from orchestrator.report.words import between, factor, limit_text, percent, time_text

__all__ = ["ORIGINAL", "make_report"]

ORIGINAL = "(original model)"
"""The name of the row of the model as given."""

_METHODS = {"slo": "service level", "against the baseline": "against the original model"}


def make_report(evidence: Evidence) -> Report:
    """The report of a decision, also of one in which nothing won."""
    decision = evidence.decision
    rows = tuple(_rows(evidence))
    winner = rows[0] if decision.winner is not None else None
    refusal = decision.refusal
    return Report(
        name=evidence.name,
        decision=(
            f"{winner.name} on {winner.backend} won: {winner.reason}"
            if winner is not None
            else f"Nothing won: {refusal.sentence if refusal is not None else 'no candidate is left'}"
        ),
        remedy="" if refusal is None else refusal.remedy,
        closest=(
            f"Lowest p99: {rows[0].name} on {rows[0].backend} ({rows[0].fate}): {rows[0].reason}"
            if winner is None and rows and rows[0].p99 is not None
            else ""
        ),
        won=winner is not None,
        level=_level(decision),
        proven=None if not _asked(decision) else decision.slo.met,
        serving=evidence.serving,
        facts=() if winner is None else tuple(_facts(winner, decision)),
        rows=rows,
        planes=tuple(_planes(rows, decision)),
        runtime_rows=tuple(sorted({batch.rows for row in rows for batch in row.batches})),
        search_rounds=tuple(evidence.rounds),
        search_time="median call of the smallest batch" if decision.objective == "latency" else "mean time of a row",
        tried=tuple(_tried(evidence, rows)),
        distributions=tuple(distributions(evidence, rows)),
        sizing=tuple(_sizing(evidence, winner)),
        environment=tuple(_environment(evidence)),
        notes=tuple(_notes(evidence)),
        method=tuple(Fact(_METHODS.get(topic, topic), how) for topic, how in decision.method.items()),
    )


def _rows(evidence: Evidence) -> Iterator[Row]:
    """The winner, then those measured over the wire by their p99, those measured in a runtime by their call, and the rest."""
    decision = evidence.decision
    sizes = {} if evidence.runtime is None else {c.candidate: c.artifact_bytes for c in evidence.runtime.candidates}

    def place(each: DecidedCandidate) -> tuple[bool, bool, float, bool, float]:
        loop = None if each.server is None else each.server.on_schedule
        call = None if each.runtime is None else each.runtime.batches[0].p50
        return each.fate != "won", loop is None, 0.0 if loop is None else loop.p99, call is None, call or 0.0

    for each in sorted(decision.candidates, key=place):
        yield _row(each, decision, sizes.get(each.candidate))
    baseline = None if decision.baseline is None else decision.baseline.measured
    if baseline is not None:
        yield Row(
            name=ORIGINAL,
            backend=baseline.runtime.runtime,
            format="as given",
            precision="",
            fate="original model",
            reason="what every candidate is verified against and compared with",
            code="",
            remedy="",
            size=None,
            image=None,
            memory=baseline.peak_rss,
            speed_up=None,
            call=baseline.batches[0].p50,
            p99=None,
            rate=None,
            level=None,
            proven_rate=None,
            cost=None,
            batches=_batches(baseline),
            start=_start(baseline, None),
            gates=(),
            accuracy={},
        )


def _row(each: DecidedCandidate, decision: Decision, size: int | None) -> Row:
    runtime, server = each.runtime, each.server
    against = None if runtime is None or runtime.against_baseline is None else runtime.against_baseline
    paired = None if against is None else against.for_objective(decision.objective)
    loop = None if server is None else server.on_schedule
    full = None if server is None else server.saturated
    return Row(
        name=each.candidate,
        backend=each.backend,
        format=each.format,
        precision=each.precision,
        fate=each.fate,
        reason=each.reason,
        code="" if each.error is None else each.error.code,
        remedy="" if each.error is None else each.error.remedy,
        size=size,
        image=None if server is None or server.image is None else server.image.total,
        memory=server.peak_rss if server is not None else runtime.peak_rss if runtime is not None else None,
        speed_up=None
        if paired is None or paired.ratio <= 0
        else Estimate(
            1 / paired.ratio,
            # The interval of the ratio of times, turned round; without an upper end it says nothing.
            None if paired.high is None else 1 / paired.high,
            None if paired.high is None or paired.low <= 0 else 1 / paired.low,
        ),
        call=None if runtime is None else runtime.batches[0].p50,
        p99=None if loop is None else Estimate(loop.p99, *loop.p99_interval),
        rate=None
        if full is None
        else Estimate(
            full.at_least,
            min(full.by_segment, default=None),
            max(full.by_segment, default=None),
            at_least=full.rows_per_second is None,
        ),
        level=each.slo,
        proven_rate=each.proven_rate,
        cost=each.cost_per_million,
        batches=() if runtime is None else _batches(runtime),
        start=_start(runtime, server),
        gates=each.gates,
        accuracy=each.accuracy,
    )


def _batches(measured: RuntimeMeasurement) -> tuple[Batch, ...]:
    return tuple(Batch(each.rows, each.p50, each.p99, each.rows_per_second) for each in measured.batches)


def _start(runtime: RuntimeMeasurement | None, server: ServerMeasurement | None) -> Start:
    return Start(
        load=None if runtime is None else runtime.load_seconds,
        first_call=None if runtime is None else runtime.first_inference_seconds,
        ready=None if server is None else server.ready_seconds,
        first_request=None if server is None else server.first_request_seconds,
    )


def _planes(rows: Sequence[Row], decision: Decision) -> Iterator[Plane]:
    """Over the wire and in the runtimes, each if anything was measured there."""
    rate = "" if decision.rate is None else f" at {rate_text(decision.rate)} requests/s"
    over_the_wire = [
        (number, row.rate, row.p99) for number, row in enumerate(rows) if row.rate is not None and row.p99 is not None
    ]
    in_runtimes = [
        (number, Estimate(max(batch.rate for batch in row.batches)), Estimate(row.call))
        for number, row in enumerate(rows)
        if row.call is not None
    ]
    if over_the_wire:
        yield Plane("server", f"p99 over the wire{rate}", decision.slo.p99_latency, _points(over_the_wire))
    if in_runtimes:
        yield Plane("runtime", "median call of the smallest batch", None, _points(in_runtimes))


def _points(found: Sequence[tuple[int, Estimate, Estimate]]) -> tuple[Point, ...]:
    front = on_front([(rate.value, latency.value) for _, rate, latency in found])
    return tuple(Point(row, rate, latency, best) for (row, rate, latency), best in zip(found, front, strict=True))


def _tried(evidence: Evidence, rows: Sequence[Row]) -> Iterator[Tried]:
    """The candidates that were measured in a round of the search, in the order of the rows."""
    objective = evidence.decision.objective
    found: dict[str, dict[int, float]] = {}
    for number, report in evidence.rounds.items():
        for each in report.candidates:
            if each.times:
                found.setdefault(each.candidate, {})[number] = median(turn.of(objective) for turn in each.times)
    for place, row in enumerate(rows):
        if row.name in found:
            yield Tried(place, found[row.name])


def _asked(decision: Decision) -> bool:
    return decision.slo.p99_latency is not None or decision.slo.throughput is not None


def _level(decision: Decision) -> str:
    slo = decision.slo
    if not _asked(decision):
        return ""
    parts = [
        *([] if slo.p99_latency is None else [f"p99 within {limit_text(slo.p99_latency)}"]),
        *([] if slo.throughput is None else [f"{rate_text(slo.throughput)} requests/s"]),
    ]
    asked = "Service level: " + " at ".join(parts)
    confidence = percent(decision.confidence)
    if slo.met:
        return f"{asked}, proven at {confidence} confidence"
    return f"{asked}, not proven at {confidence} confidence" + ("" if slo.enforce else "; it is not enforced")


def _facts(winner: Row, decision: Decision) -> Iterator[Fact]:
    if winner.p99 is not None:
        at = "" if decision.rate is None else f" at {rate_text(decision.rate)}/s"
        yield Fact(f"p99 over the wire{at}", time_text(winner.p99.value), between(winner.p99, time_text))
    elif winner.call is not None:
        yield Fact("median call", time_text(winner.call), "in its runtime, with the smallest batch")
    if winner.rate is not None:
        least = "at least " if winner.rate.at_least else ""
        yield Fact("throughput at saturation", f"{least}{rate_text(winner.rate.value)} rows/s")
    if winner.speed_up is not None:
        note = between(winner.speed_up, factor)
        yield Fact("speed-up in the runtime", factor(winner.speed_up.value), note or "against the original model")
    if winner.size is not None:
        yield Fact("model files", bytes_text(winner.size))
    if winner.memory is not None:
        yield Fact("peak memory", memory_text(winner.memory))
    if winner.start.ready is not None:
        first = winner.start.first_request
        yield Fact("start to ready", time_text(winner.start.ready), f"first request {time_text(first or 0.0)}")
    if winner.cost is not None:
        yield Fact("cost of a million requests", f"{winner.cost:.3g}", "at the proven rate, by hardware.price_per_hour")


def _sizing(evidence: Evidence, winner: Row | None) -> Iterator[Fact]:
    """What the rendered files give a replica; docs/measuring.md has the rules."""
    found = evidence.sizing
    if found is None or winner is None:
        return
    yield Fact("memory request", memory_text(found.memory_request), "from the measured peak")
    yield Fact("CPU request", f"{found.cpu_request:g}", "from the measured use")
    if found.proven_rate is not None:
        yield Fact("proven rate of a replica", f"{rate_text(found.proven_rate)}/s")
    if found.replicas is not None:
        yield Fact("replicas", str(found.replicas), "that hold slo.total_throughput together")
    yield Fact("autoscaling target", f"{found.target_cpu_percent} % of the CPU request")
    if found.longest_request is not None:
        yield Fact("longest request", f"{found.longest_request} s", "the grace period waits for it")


def _environment(evidence: Evidence) -> Iterator[Fact]:
    decision, machine = evidence.decision, evidence.machine
    on = decision.measured_on
    if machine is not None:
        yield Fact("processor", machine.processor or "not known", machine.architecture)
    if on is not None:
        yield Fact("CPUs", str(on.cpus), f"{on.how}; {on.threads} threads in each runtime")
        if on.accelerators:
            yield Fact("GPUs", ", ".join(on.accelerators), "" if on.driver is None else f"driver {on.driver}")
    if machine is not None:
        yield Fact("memory limit", memory_text(machine.memory), "of each measured process")
        yield Fact("measured", machine.started.replace("T", " ").replace("+00:00", " UTC"))
    if decision.load_generator is not None:
        yield Fact("load generator", f"{decision.load_generator.cpus} CPUs", decision.load_generator.note)
    inside = {each.server.inside for each in decision.candidates if each.server is not None}
    if inside:
        yield Fact("servers ran", "in containers with their limits" if inside == {"container"} else "as processes")
    yield Fact("samples", decision.samples, "given by the spec" if decision.samples == "real" else "random inputs")
    yield Fact("objective", decision.objective)
    baseline = None if decision.baseline is None else decision.baseline.measured
    versions = {
        package: version
        for runtime in (*(each.runtime for each in decision.candidates), baseline)
        if runtime is not None
        for package, version in runtime.runtime.versions.items()
    }
    for package, version in sorted(versions.items()):
        yield Fact(package, version)
    yield Fact("mlo", evidence.version, f"decided {evidence.decided.replace('T', ' ').replace('+00:00', ' UTC')}")


def _notes(evidence: Evidence) -> Iterator[str]:
    decision = evidence.decision
    yield from decision.notes
    if decision.one_by_one is not None:
        yield f"requests are answered one by one: {decision.one_by_one}"
    if evidence.runtime is None and any(each.runtime is not None for each in decision.candidates):
        yield "sizes and distributions are missing: the benchmark's files are no longer in the store"
