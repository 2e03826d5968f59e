"""Where the values of the rendered files come from: what was measured, and what the spec says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.measurement import rate_text
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.backend import ServingBackend
from orchestrator.backends.table import backend
from orchestrator.process.memory import format_bytes
from orchestrator.spec.quantities import cpus_text, duration_text, size_text

if TYPE_CHECKING:
    from orchestrator.artifacts.decision import DecidedCandidate
    from orchestrator.engine.planning import Planned
    from orchestrator.spec.load import LoadedSpec
    from orchestrator.store.store import Store

__all__ = ["RENDERED", "rendered_values"]

RENDERED = ("startupSeconds", "memory", "cpu", "maxBatchSize", "maxDelay", "queue", "replicas")
"""What can be explained, by the names in the rendered files; a candidate for devices has none of it."""


def rendered_values(planned: Planned, store: Store) -> dict[str, str]:
    """Name → its value and where it comes from; empty if nothing is rendered yet, or without a server."""
    decided, rendered = planned.output(store, "select"), planned.output(store, "render")
    if decided is None or rendered is None:
        return {}
    winner, decision = Winner.read(decided), Decision.read(decided)
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
    replicas = spec.serving.replicas
    found = {
        "startupSeconds": (str(winner.startup_seconds), _startup(measured, served_by.least_startup)),
        "memory": (size_text(spec.hardware.memory), _from(loaded, "hardware.memory") + _peak(measured)),
        "cpu": (str(cpus_text(spec.hardware.cpus)), _from(loaded, "hardware.cpus")),
        "maxBatchSize": (
            "1 row" if winner.max_batch_size == 1 else f"{winner.max_batch_size} rows",
            _batch(loaded, winner, measured),
        ),
        "maxDelay": (duration_text(winner.max_delay), delay),
        "queue": (queue, why_queue),
        "replicas": (f"{replicas.min} to {replicas.max}", _from(loaded, "serving.replicas")),
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


def _peak(measured: DecidedCandidate) -> str:
    return "" if measured.server is None else f"; its server needed {format_bytes(measured.server.peak_rss)} under load"


def _batch(loaded: LoadedSpec, winner: Winner, measured: DecidedCandidate) -> str:
    if winner.signature.batch is None:
        return "the model takes one row per call"
    if loaded.spec.serving.batching != "auto":
        return _from(loaded, "serving.batching.max_size")
    batches = () if measured.runtime is None else measured.runtime.batches
    sizes = ", ".join(f"{batch.rows} ({rate_text(batch.rows_per_second)} rows/s)" for batch in batches)
    within = "" if loaded.spec.slo.p99_latency is None else " within half of `slo.p99_latency`"
    return f"`serving.batching: auto`: of {sizes}, the smallest with 95 % of the best throughput{within}"
