"""The step `select`: the winner, and every candidate's fate with its reason. Rules in docs/measuring.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.artifacts.fates import Fates
from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.verdict import Verdict
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import BACKENDS, backend
from orchestrator.backends.versions import installed_closure
from orchestrator.select.chart import chart
from orchestrator.select.fates import Standing, standing
from orchestrator.select.notes import decision_notes
from orchestrator.select.ranking import Choice, choose, choose_by_runtime, compared
from orchestrator.select.service_level import distance, distance_text, service_level
from orchestrator.steps import StepContext, StepError
from orchestrator.store.atomic import pretty_json
from orchestrator.store.digest import digest_tree

__all__ = ["select", "startup_bound"]

CONFIDENCE = 0.99

_METHOD = {
    "percentile": "nearest rank over all samples pooled",
    "slo": "exact one-sided binomial test; an early end only at 99.99 %; what a busy server refuses is over the limit",
    "tie": "within 5 %, or overlapping 95 % intervals of the p99 (order statistics) or ranges of the saturated segments",
    "against the baseline": "median of ratios over interleaved rounds, 95 % interval of the sign test",
    "latency": "open loop, Poisson arrivals, counted from the scheduled time",
}


def select(context: StepContext) -> dict[str, Any]:
    """Pick the winner; leaves `decision.json`, `winner.json` and `chart.svg`.

    Params: `candidates` (with `refused` and `steps`), `slo` (with `enforce`), `objective`. Inputs: `import`, `fates`, and
    where they were made `runtime`, `server`, `verdict:NAME`, `variant:NAME`.

    Raises:
        StepError: E501 no candidate meets the service level, E502 no candidate is left to choose from.
    """
    params = context.params
    runtime, server = _report(context, "runtime"), _report(context, "server")
    everyone = _standings(context, runtime, server)
    contenders = [s for s in everyone if s.fate == "contends"]
    if not contenders:
        raise _nothing_left(everyone)
    asked = params["slo"]["p99_latency"] is not None or params["slo"]["throughput"] is not None
    levels = {s.variant: _level(s, asked=asked) for s in contenders}
    good = [s for s in contenders if levels[s.variant] in {"met", "none"}]
    if not good and params["slo"]["enforce"]:
        raise _service_level_not_met(contenders, everyone)
    held = bool(good)
    objective = params["objective"]
    choice = _choice(good or contenders, objective)
    for contender in contenders:
        _conclude(contender, choice, level=levels[contender.variant], held=held, objective=objective)
    winner = _winner(context, choice.winner)
    decision = {
        "winner": {name: getattr(winner, name) for name in ("variant", "backend", "format", "precision")},
        "candidates": [_candidate(s) for s in everyone],
        "measured": "in its runtime alone" if choice.runtimes_alone else "over the wire",
        "baseline": runtime.get("baseline"),
        "slo": {**params["slo"], "met": held and levels[choice.winner.variant] == "met"},
        "objective": objective,
        "rate": server.get("rate"),
        "samples": runtime.get("samples"),
        "confidence": CONFIDENCE,
        "measured_on": server.get("measured_on") or runtime.get("measured_on"),
        "method": _METHOD,
        "notes": decision_notes(context, runtime, server, everyone, choice, held=held),
    }
    (context.output / "decision.json").write_bytes(pretty_json(decision))
    winner.write(context.output)
    (context.output / "chart.svg").write_text(chart(decision), encoding="utf-8")
    return {"winner": winner.candidate, "backend": winner.backend, "reason": choice.winner.reason}


def startup_bound(ready_seconds: float, least: int) -> int:
    """A generous bound on starting, seconds: three times what it took, rounded up to `least` times 1, 2, 4, 8, ...

    The steps are coarse so that a new measurement of the same server gives the same deployment.

    Args:
        ready_seconds: from the start to ready, as measured.
        least: the backend's `least_startup`; a fast start here says little about a busy node with a cold disk.
    """
    bound = least
    while bound < 3 * ready_seconds:
        bound *= 2
    return bound


def _report(context: StepContext, role: str) -> dict[str, Any]:
    if role not in context.inputs:
        return {}
    report: dict[str, Any] = json.loads((context.inputs[role] / "report.json").read_bytes())
    return report


def _standings(context: StepContext, runtime: Mapping[str, Any], server: Mapping[str, Any]) -> list[Standing]:
    steps = Fates.read_file(context.inputs["fates"]).steps
    at_runtime = {row["variant"]: row for row in runtime.get("candidates", ())}
    at_server = {row["variant"]: row for row in server.get("candidates", ())}
    return [
        standing(
            row,
            steps=steps,
            verdict=Verdict.read(context.inputs[role])
            if (role := f"verdict:{row['variant']}") in context.inputs
            else None,
            runtime=at_runtime.get(row["variant"], {}),
            server=at_server.get(row["variant"], {}),
            objective=context.params["objective"],
            runtime_level=context.params["runtime_level"],
        )
        for row in context.params["candidates"]
    ]


def _level(contender: Standing, *, asked: bool) -> str:
    """As `service_level`, and `not measured` where one is asked for and there is no server to show it."""
    if contender.over_the_wire:
        return service_level(contender.server)
    return "not measured" if asked else "none"


def _choice(contenders: Sequence[Standing], objective: str) -> Choice:
    """What was measured over the wire goes first: numbers of a runtime alone say nothing of a server.

    What contends without having one is meant for a device, as the whole folder then is: all are compared by their runtimes.
    """
    if any(not BACKENDS[contender.backend].served for contender in contenders):
        return choose_by_runtime(contenders, objective)
    served = [contender for contender in contenders if contender.over_the_wire]
    return choose(served, objective) if served else choose_by_runtime(contenders, objective)


def _conclude(contender: Standing, choice: Choice, *, level: str, held: bool, objective: str) -> None:
    """The fate of one that was measured to the end."""
    if contender is choice.winner:
        contender.fate = "won"
        short = "not proven" if level in {"not measured", "inconclusive"} else "not met"
        contender.reason = choice.reason if held else f"{choice.reason}; SLO {short}: {distance_text(contender.server)}"
    elif held and level == "missed":
        contender.fate, contender.reason = "slo missed", distance_text(contender.server)
    elif held and level in {"inconclusive", "not measured"}:
        contender.fate, contender.reason = "inconclusive", distance_text(contender.server)
    else:
        contender.fate, contender.reason = "lost", compared(contender, choice, objective)


def _candidate(found: Standing) -> dict[str, Any]:
    measured = found.over_the_wire
    return {
        **{name: found.row[name] for name in ("variant", "format", "precision", "backend")},
        "fate": found.fate,
        "reason": found.reason,
        "runtime": dict(found.runtime) if found.runtime.get("batches") else None,
        "server": dict(found.server) if measured else None,
        "slo": service_level(found.server) if measured else None,
        "distance": distance(found.server) if measured else None,
    }


def _winner(context: StepContext, winner: Standing) -> Winner:
    """What is deployed: everything that was decided, and nothing that only was measured."""
    return Winner(
        candidate=winner.variant,
        **{name: winner.row[name] for name in ("variant", "format", "precision", "backend")},
        signature=Imported.read(context.inputs["import"]).signature,
        max_batch_size=winner.server["max_batch_size"],
        max_delay=winner.server["max_delay"],
        startup_seconds=startup_bound(
            winner.server["ready_seconds"] if winner.over_the_wire else winner.runtime["load_seconds"],
            backend(winner.backend).least_startup,
        ),
        model_digest=digest_tree(context.inputs[f"variant:{winner.variant}"]).digest,
        tools=installed_closure(backend(winner.backend).tools, cuda="accelerator" in context.params),
    )


def _fates(everyone: Sequence[Standing]) -> tuple[str, ...]:
    return tuple(f"{s.variant}: {s.fate}: {s.reason}" for s in everyone)


def _nothing_left(everyone: Sequence[Standing]) -> StepError:
    if any(s.fate == "undecided" for s in everyone):
        cause = "measuring ended before it could tell whether anything is faster than the model as given"
        remedy = "give measuring more time with `optimize.time_budget`, or fewer `benchmark.batch_sizes`"
    elif any(s.fate == "not faster than the baseline" for s in everyone):
        cause = "nothing that passed verification is faster than the model as given"
        remedy = "allow more formats or precisions under `optimize:`"
    else:
        cause = "each was refused, failed or could not be measured"
        remedy = "see what became of each, and what its reason says"
    said = "; ".join(_fates(everyone))
    return StepError(
        "E502", f"no candidate is left: {said}", cause=cause, remedy=remedy, at=("optimize",), notes=_fates(everyone)
    )


def _service_level_not_met(contenders: Sequence[Standing], everyone: Sequence[Standing]) -> StepError:
    distances = "; ".join(f"{s.variant}: {distance_text(s.server)}" for s in contenders)
    undecided = any(_level(s, asked=True) == "inconclusive" for s in contenders)
    if all(not s.over_the_wire for s in contenders):
        return StepError(
            "E501",
            f"no candidate meets the SLO: {distances}",
            cause="a service level is proven over the wire, and no server could be measured",
            remedy="install what is missing (`mlo doctor` says what), or set `slo: {enforce: false}`",
            at=("slo",),
            notes=_fates([s for s in everyone if s not in contenders]),
        )
    again = "if the machine was busy, measure again with `mlo apply SPEC --replace benchmark.server`"
    remedy = (
        f"{again}; else relax `slo:`, give it more `hardware:`, or take the best one with `slo: {{enforce: false}}`"
    )
    if undecided:
        remedy = f"give measuring more time with `optimize.time_budget`, or {remedy}"
    others = [s for s in everyone if s not in contenders]
    return StepError(
        "E501",
        f"no candidate meets the SLO: {distances}",
        cause="the 99th percentile must be within the limit at a confidence of 99 %, and every request be answered",
        remedy=remedy,
        at=("slo",),
        notes=_fates(others),
    )
