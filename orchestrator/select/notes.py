"""What a reader of the decision must know to weigh it: what was not proven, and what was noisy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.measure.finalists import against_baseline
from orchestrator.select.fates import Standing
from orchestrator.select.ranking import Choice
from orchestrator.select.service_level import service_level
from orchestrator.steps import StepContext

__all__ = ["decision_notes"]

_NOISY = 3.0
"""An interval whose upper end is this many times its lower one leaves open how much faster something is."""


def decision_notes(
    context: StepContext,
    runtime: Mapping[str, Any],
    server: Mapping[str, Any],
    everyone: Sequence[Standing],
    choice: Choice,
    *,
    held: bool,
) -> list[str]:
    """The `notes` of `decision.json`, a sentence each.

    Args:
        context: of the step `select`.
        runtime: the runtime benchmark's report.
        server: the server benchmark's.
        everyone: all candidates.
        choice: the winner.
        held: whether the winner holds the service level.
    """
    return [
        *_of_the_whole(context.params, runtime, server, choice, held=held),
        *_of_what_stands_in(context.params, everyone, choice.winner),
        *_of_programs(everyone),
        *_of_variants(context, everyone),
        *_of_noise(runtime, everyone, context.params["objective"]),
    ]


def _of_the_whole(
    params: Mapping[str, Any],
    runtime: Mapping[str, Any],
    server: Mapping[str, Any],
    choice: Choice,
    *,
    held: bool,
) -> list[str]:
    notes = []
    winner = choice.winner
    if not held:
        missed = winner.over_the_wire and service_level(winner.server) == "missed"
        said = "not met" if missed else "not proven"
        notes.append(f"SLO {said}; slo.enforce is false, so the best candidate was taken")
    if choice.runtimes_alone:
        notes.append(f"chosen by what the runtimes showed: {choice.runtimes_alone}")
    if runtime.get("samples") == "random":
        notes.append("parity and speed were proven on random inputs only: no real `samples:` are given")
    baseline = runtime.get("baseline")
    if baseline is not None and baseline["fate"] != "measured":
        notes.append(f"nothing could be compared with the baseline: {baseline['reason']}")
    if server.get("rate") is not None and params["slo"]["throughput"] is None:
        notes.append(f"the spec gives no slo.throughput: latency was measured at {server['rate']:.4g}/s")
    measured_on = server.get("measured_on", {})
    if "accelerators" in measured_on:
        gpus = ", ".join(measured_on["accelerators"])
        notes.append(f"measured on {gpus} with driver {measured_on['driver']}; other GPUs have other latencies")
    if server.get("rate") is not None and "shared" in measured_on.get("load_generator", ""):
        notes.append(measured_on["load_generator"])
    if measured_on and measured_on["cpus"] != measured_on["cpus_wanted"]:
        notes.append(measured_on["how"])
    return notes


def _of_what_stands_in(params: Mapping[str, Any], everyone: Sequence[Standing], winner: Standing) -> list[str]:
    """That the winner is the model as given in another format than its own, which no server takes, and what that costs."""
    source = params["source"]
    if not winner.row["as_given"] or winner.row["format"] == source:
        return []
    if any(s.row["as_given"] and s.row["format"] == source and s.fate == "lost" for s in everyone):
        return []  # it contended as it is
    comparison = against_baseline(winner.runtime, params["objective"])
    cost = "" if comparison is None else f"; it takes {comparison.ratio:.2f} times as long as that in its own runtime"
    return [f"{winner.variant} stands for the model as given, since no server takes {source}{cost}"]


def _of_programs(everyone: Sequence[Standing]) -> list[str]:
    """What was measured in another version of a server than the one that is rendered."""
    notes = []
    for found in everyone:
        program = found.server.get("program")
        if found.over_the_wire and program is not None and not program["rendered"]:
            notes.append(
                f"the server of {found.variant} was measured in {program['name']} ({program['version']}), which is not the "
                "version that is rendered"
            )
    return notes


def _of_variants(context: StepContext, everyone: Sequence[Standing]) -> list[str]:
    """What the steps that made the variants say of how far they are proven."""
    notes = []
    for found in everyone:
        folder = context.inputs.get(f"variant:{found.variant}")
        facts = folder / "facts.json" if folder is not None else None
        if facts is not None and facts.exists() and (note := json.loads(facts.read_bytes()).get("note")):
            notes.append(f"{found.variant}: {note}")
    return notes


def _of_noise(runtime: Mapping[str, Any], everyone: Sequence[Standing], objective: str) -> list[str]:
    """Where the numbers vary too much, or had not settled when they were taken."""
    notes = []
    wide, unsettled = [], []
    for found in everyone:
        comparison = against_baseline(found.runtime, objective) if found.runtime.get("batches") else None
        if comparison is not None and comparison.low * _NOISY < comparison.high:
            wide.append(f"{found.variant} ({comparison.low:.2f} to {comparison.high:.2f})")
        warm_up = found.server.get("warm_up")
        if warm_up is not None and not warm_up["settled"]:
            unsettled.append(f"the server of {found.variant}")
    for row in (runtime.get("baseline") or {}, *(found.runtime for found in everyone)):
        sizes = [str(b["rows"]) for b in row.get("batches", ()) if b.get("warm_up") and not b["warm_up"]["settled"]]
        if sizes:
            unsettled.append(f"{row['variant']} at batch {', '.join(sizes)}")
    if wide:
        what = "latency" if objective == "latency" else "time for each row"
        notes.append(f"noisy: by how much the {what} differs from the baseline's is uncertain for {', '.join(wide)}")
    if unsettled:
        notes.append(f"warming up had not settled for {'; '.join(unsettled)}")
    return notes
