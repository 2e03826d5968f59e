"""Where the values of the rendered files come from: what was measured, and what the spec says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.measurement import rate_text
from orchestrator.artifacts.sizing import Sizing
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.backend import ServingBackend
from orchestrator.backends.table import backend
from orchestrator.process.memory import format_bytes
from orchestrator.select.sizing import MEMORY_HEADROOM, WITHOUT_LIMIT, peak_cpus
from orchestrator.spec.quantities import cpus_text, duration_text, size_text

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts.decision import DecidedCandidate
    from orchestrator.engine.planning import Planned
    from orchestrator.spec.load import LoadedSpec
    from orchestrator.store.store import Store

__all__ = ["RENDERED", "rendered_values"]

RENDERED = (
    "startupSeconds",
    "memory",
    "cpu",
    "requestSeconds",
    "maxBatchSize",
    "maxDelay",
    "queue",
    "replicas",
    "targetCpuPercent",
    "costPerMillion",
)
"""What can be explained, by the names in the rendered files; a candidate for devices has none of it."""


def rendered_values(planned: Planned, store: Store) -> dict[str, str]:
    """Name → its value and where it comes from; empty if nothing is rendered yet, or without a server."""
    decided, rendered = planned.output(store, "select"), planned.output(store, "render")
    if decided is None or rendered is None:
        return {}
    winner, decision, sizing = Winner.read(decided), Decision.read(decided), Sizing.read(decided)
    served_by = backend(winner.backend)
    if not isinstance(served_by, ServingBackend):
        return {}
    loaded = planned.loaded
    measured = next(each for each in decision.candidates if each.candidate == winner.candidate)
    spec, auto = loaded.spec, loaded.spec.serving.batching == "auto"
    delay = (
        "`serving.batching: auto`: nobody waits for others; what comes while a call runs is in the next batch"
        if auto
        else _from(loaded, "serving.batching.max_delay")
    )
    queue = served_by.queue(rendered / "serving", spec.metadata.name)
    why_queue = "what comes on top is refused at once, because it would be answered too late"
    if spec.serving.limits.queue is not None:
        why_queue = _from(loaded, "serving.limits.queue")
    shares = decision.load_generator is not None and decision.load_generator.shares_cpus
    found = {
        "startupSeconds": (str(winner.startup_seconds), _startup(measured, served_by.least_startup)),
        "memory": (
            f"request {size_text(sizing.memory_request)}, limit {size_text(spec.hardware.memory)}",
            f"{_memory(measured)}; the limit is {_from(loaded, 'hardware.memory')}",
        ),
        "cpu": (
            f"request {cpus_text(sizing.cpu_request)}, limit {cpus_text(spec.hardware.cpus)}",
            f"{_cpu(measured, shares=shares)}; the limit is {_from(loaded, 'hardware.cpus')}",
        ),
        "requestSeconds": (_request_seconds(rendered), _longest(loaded, measured, sizing, served_by)),
        "maxBatchSize": (
            "1 row" if winner.max_batch_size == 1 else f"{winner.max_batch_size} rows",
            _batch(loaded, winner, measured),
        ),
        "maxDelay": (duration_text(winner.max_delay), delay),
        "queue": (queue, why_queue),
        "replicas": _replicas(loaded, sizing),
        "targetCpuPercent": (f"{sizing.target_cpu_percent} % of the CPU request", _target(measured)),
        "costPerMillion": (
            "" if measured.cost_per_million is None else f"{measured.cost_per_million:.3g}",
            f"{_from(loaded, 'hardware.price_per_hour')}, for a replica that answers the {_rate(measured)}/s that it is proven to hold",
        ),
    }
    return {name: f"{name} = {value}\n  {why}" for name, (value, why) in found.items() if value}


def _from(loaded: LoadedSpec, key: str) -> str:
    origin = loaded.origin(key)
    return f"`{key}`, {'the default' if origin is None else f'{loaded.document.file} line {origin.line}'}"


def _startup(measured: DecidedCandidate, least: int) -> str:
    seconds = None if measured.runtime is None else measured.runtime.load_seconds
    seconds = seconds if measured.server is None else measured.server.ready_seconds
    start = "" if seconds is None else f" of {seconds:.3g} s"
    return f"three times the measured start{start}, at least {least} s and doubled from there, so that noise changes nothing"


def _memory(measured: DecidedCandidate) -> str:
    if measured.server is None:
        return "no server was measured, so the request is the limit"
    peak = format_bytes(measured.server.peak_rss)
    head_room = f"{round((MEMORY_HEADROOM - 1) * 100)} %"
    return f"the request is what its server needed under load, {peak}, and {head_room}, rounded up to 64, 96, 128, 192 MiB, ..."


def _cpu(measured: DecidedCandidate, *, shares: bool) -> str:
    peak = None if measured.server is None else peak_cpus(measured.server, shares_cpus=shares)
    if peak is None:
        return "the use of CPUs at saturation was not measured, so the request is the limit"
    generator = " with what the load generator took from it," if shares else ","
    return (
        f"the request is what its server used at saturation{generator} {peak:.3g}, rounded up to 0.25, 0.375, 0.5, ..."
    )


def _request_seconds(rendered: Path) -> str:
    found = re.search(
        r"^  requestSeconds: ([0-9]+)$", (rendered / "values.yaml").read_text(encoding="utf-8"), re.MULTILINE
    )
    return "" if found is None else f"{found[1]} s"


def _longest(loaded: LoadedSpec, measured: DecidedCandidate, sizing: Sizing, served_by: ServingBackend) -> str:
    most = (
        "`serving.limits.request_timeout`" if loaded.spec.serving.limits.request_timeout else "the server's own limit"
    )
    if served_by.server.request_seconds == 0:
        return "the server ends at once on SIGTERM, after a pause in which requests are routed elsewhere"
    if measured.server is None or sizing.longest_request is None:
        return f"{most}; no server was measured"
    longest = f"{measured.server.longest_request:.3g} s"
    return (
        f"how long a stopping server waits for its last requests: three times the longest measured, {longest}, at least 5 s and "
        f"doubled from there, at most {most}; the grace period is that, the time in which it still accepts requests, and 5 s"
    )


def _replicas(loaded: LoadedSpec, sizing: Sizing) -> tuple[str, str]:
    replicas, total = loaded.spec.serving.replicas, loaded.spec.slo.total_throughput
    least = max(replicas.min, sizing.replicas or 1)
    words, why = f"{least} to {max(replicas.max, least)}", _from(loaded, "serving.replicas")
    if total is None or sizing.replicas is None or sizing.proven_rate is None:
        return words, why
    each = f"{rate_text(total)}/s in all, {rate_text(sizing.proven_rate)}/s of each"
    return words, f"`slo.total_throughput`: {sizing.replicas} for {each}, as is proven; and {why}"


def _rate(measured: DecidedCandidate) -> str:
    return "" if measured.proven_rate is None else rate_text(measured.proven_rate)


def _target(measured: DecidedCandidate) -> str:
    server = measured.server
    knee = None if server is None else server.known_knee
    if knee is not None:
        level = f"p99 {duration_text(float(f'{knee.p99:.2g}'))} of {duration_text(knee.level.limit)}"
        return f"at the knee, {rate_text(knee.rate)}/s ({level}), its server used {knee.cpus:.2g} CPUs; rounded down to tens"
    if server is None or server.slo.p99 is not None or server.saturated is None:
        return "the default, since no rate was proven"
    return f"without `slo.p99_latency` there is no knee: {round(WITHOUT_LIMIT * 100)} % of what its server used at saturation"


def _batch(loaded: LoadedSpec, winner: Winner, measured: DecidedCandidate) -> str:
    if winner.signature.batch is None:
        return "the model takes one row per call"
    if loaded.spec.serving.batching != "auto":
        return _from(loaded, "serving.batching.max_size")
    batches = () if measured.runtime is None else measured.runtime.batches
    sizes = ", ".join(f"{batch.rows} ({rate_text(batch.rows_per_second)} rows/s)" for batch in batches)
    within = "" if loaded.spec.slo.p99_latency is None else " within half of `slo.p99_latency`"
    return f"`serving.batching: auto`: of {sizes}, the smallest with 95 % of the best throughput{within}"
