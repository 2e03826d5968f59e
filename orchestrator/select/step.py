"""The step `select`: the winner, and every candidate's fate with its reason. Rules in docs/measuring.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.artifacts.candidate import candidate_row
from orchestrator.artifacts.decision import DecidedCandidate, DecidedLevel, Decision
from orchestrator.artifacts.fates import Fates
from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport, ServiceLevel
from orchestrator.artifacts.verdict import Verdict
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import BACKENDS, backend
from orchestrator.backends.versions import installed_closure
from orchestrator.select.chart import chart
from orchestrator.select.fates import Candidate, candidate_before_the_choice
from orchestrator.select.notes import decision_notes
from orchestrator.select.ranking import Choice, choose, choose_by_runtime, compared
from orchestrator.select.service_level import distance, distance_text, service_level
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import SelectParameters
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
    """Pick the winner; leaves a `Decision`, a `Winner` and `chart.svg`.

    Inputs: `import`, `fates`, and where they were made `runtime`, `server`, `verdict:CANDIDATE`, `variant:VARIANT`.

    Raises:
        StepError: E501 no candidate meets the service level, E502 no candidate is left to choose from.
    """
    parameters = SelectParameters.from_json(context.params)
    runtime = RuntimeReport.read(context.inputs["runtime"]) if "runtime" in context.inputs else None
    server = ServerReport.read(context.inputs["server"]) if "server" in context.inputs else None
    everyone = _candidates(context, parameters, runtime, server)
    left = [c for c in everyone if c.fate is None]
    if not left or runtime is None or server is None:
        raise _nothing_left(everyone)
    wanted = ServiceLevel(p99_latency=parameters.slo.p99_latency, throughput=parameters.slo.throughput)
    levels = {c.name: _level(c, wanted) for c in left}
    good = [c for c in left if levels[c.name] in {"met", "none"}]
    if not good and parameters.slo.enforce:
        raise _service_level_not_met(left, everyone, levels)
    held = bool(good)
    objective = parameters.objective
    choice = _choice(good or left, objective)
    decided = [
        c if c.fate is not None else _concluded(c, choice, level=levels[c.name], held=held, objective=objective)
        for c in everyone
    ]
    winner = _winner(context, parameters, choice.winner)
    variants = {
        role.removeprefix("variant:"): path for role, path in context.inputs.items() if role.startswith("variant:")
    }
    decision = Decision(
        winner=choice.winner.row,
        candidates=tuple(map(_decided, decided)),
        compared=choice.compared,
        baseline=runtime.baseline,
        slo=DecidedLevel(
            **dict(wanted), enforce=parameters.slo.enforce, met=held and levels[choice.winner.name] == "met"
        ),
        objective=objective,
        rate=server.rate,
        samples=runtime.samples,
        confidence=CONFIDENCE,
        measured_on=server.measured_on,
        load_generator=server.load_generator,
        method=_METHOD,
        notes=decision_notes(parameters, variants, (runtime, server), decided, choice, held=held),
    )
    decision.write(context.output)
    winner.write(context.output)
    (context.output / "chart.svg").write_text(chart(decision), encoding="utf-8")
    reason = next(c.reason for c in decided if c.fate == "won")
    return {"winner": winner.candidate, "backend": winner.backend, "reason": reason}


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


def _candidates(
    context: StepContext, parameters: SelectParameters, runtime: RuntimeReport | None, server: ServerReport | None
) -> list[Candidate]:
    """All candidates in the order of the parameters, with the fates that they have before the choice."""
    steps = Fates.read_file(context.inputs["fates"]).steps
    at_runtime = {} if runtime is None else {row.candidate: row for row in runtime.candidates}
    at_server = {} if server is None else {row.candidate: row for row in server.candidates}
    found = []
    for each in parameters.candidates:
        name = each.candidate
        verdict = context.inputs.get(f"verdict:{name}")
        found.append(
            candidate_before_the_choice(
                each,
                own_steps=parameters.steps[name],
                steps=steps,
                verdict=None if verdict is None else Verdict.read(verdict),
                runtime=at_runtime.get(name),
                server=at_server.get(name),
                objective=parameters.objective,
                runtime_level=parameters.runtime_level,
            )
        )
    refused = (Candidate(candidate_row(each)).ended("refused", each.reason) for each in parameters.refused)
    return [*found, *refused]


_Level = Literal["met", "missed", "inconclusive", "none", "not measured"]


def _level(candidate: Candidate, wanted: ServiceLevel) -> _Level:
    """As `service_level`, and `not measured` where one is asked for and there is no server to show it."""
    if candidate.over_the_wire is not None:
        return service_level(candidate.over_the_wire)
    return "none" if wanted.p99_latency is None and wanted.throughput is None else "not measured"


def _choice(candidates: Sequence[Candidate], objective: Objective) -> Choice:
    """What was measured over the wire goes first: numbers of a runtime alone say nothing of a server.

    What can win without having one is meant for a device, as the whole folder then is: all are compared by their runtimes.
    """
    if any(not BACKENDS[candidate.backend].served for candidate in candidates):
        return choose_by_runtime(candidates, objective)
    served = [candidate for candidate in candidates if candidate.over_the_wire is not None]
    return choose(served, objective) if served else choose_by_runtime(candidates, objective)


def _concluded(candidate: Candidate, choice: Choice, *, level: _Level, held: bool, objective: Objective) -> Candidate:
    """A candidate that was measured to the end, with its fate."""
    if candidate is choice.winner:
        short = "not proven" if level in {"not measured", "inconclusive"} else "not met"
        reason = choice.reason if held else f"{choice.reason}; SLO {short}: {_distance(candidate)}"
        return candidate.ended("won", reason)
    if held and level == "missed":
        return candidate.ended("slo missed", _distance(candidate))
    if held and level in {"inconclusive", "not measured"}:
        return candidate.ended("inconclusive", _distance(candidate))
    return candidate.ended("lost", compared(candidate, choice, objective))


def _distance(candidate: Candidate) -> str:
    if candidate.over_the_wire is None:
        return f"not measured over the wire: {candidate.without_server}"
    return distance_text(candidate.over_the_wire)


def _decided(found: Candidate) -> DecidedCandidate:
    assert found.fate is not None, "the choice has been made"
    wire = found.over_the_wire
    return DecidedCandidate(
        **dict(found.row),
        fate=found.fate,
        reason=found.reason,
        runtime=None if found.runtime is None else found.runtime.measured,
        server=wire,
        slo=None if wire is None else service_level(wire),
        distance=None if wire is None else distance(wire),
    )


def _winner(context: StepContext, parameters: SelectParameters, winner: Candidate) -> Winner:
    """What is deployed: everything that was decided, and nothing that only was measured."""
    assert winner.server is not None, "it can win"
    assert winner.server.settings is not None, "its server was to be started"
    wire = winner.over_the_wire
    return Winner(
        **dict(winner.row),
        options=next(c.options for c in parameters.candidates if c.candidate == winner.name),
        signature=Imported.read(context.inputs["import"]).signature,
        max_batch_size=winner.server.settings.max_batch_size,
        max_delay=winner.server.settings.max_delay,
        startup_seconds=startup_bound(
            winner.in_runtime.load_seconds if wire is None else wire.ready_seconds,
            backend(winner.backend).least_startup,
        ),
        model_digest=digest_tree(context.inputs[f"variant:{winner.row.variant}"]).digest,
        tools=installed_closure(backend(winner.backend).tools, cuda=parameters.accelerator == "cuda"),
    )


def _fates(everyone: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(f"{c.name}: {c.fate}: {c.reason}" for c in everyone)


def _nothing_left(everyone: Sequence[Candidate]) -> StepError:
    if any(c.fate == "undecided" for c in everyone):
        cause = "measuring ended before it could tell whether anything is faster than the model as given"
        remedy = "give measuring more time with `optimize.time_budget`, or fewer `benchmark.batch_sizes`"
    elif any(c.fate == "not faster than the baseline" for c in everyone):
        cause = "nothing that passed verification is faster than the model as given"
        remedy = "allow more formats or precisions under `optimize:`"
    else:
        cause = "each was refused, failed or could not be measured"
        remedy = "see what became of each, and what its reason says"
    fates = "; ".join(_fates(everyone))
    return StepError(
        "E502", f"no candidate is left: {fates}", cause=cause, remedy=remedy, at=("optimize",), notes=_fates(everyone)
    )


def _service_level_not_met(
    left: Sequence[Candidate], everyone: Sequence[Candidate], levels: Mapping[str, _Level]
) -> StepError:
    distances = "; ".join(f"{c.name}: {_distance(c)}" for c in left)
    others = _fates([c for c in everyone if c.fate is not None])
    if all(c.over_the_wire is None for c in left):
        return StepError(
            "E501",
            f"no candidate meets the SLO: {distances}",
            cause="a service level is proven over the wire, and no server could be measured",
            remedy="install what is missing (`mlo doctor` says what), or set `slo: {enforce: false}`",
            at=("slo",),
            notes=others,
        )
    again = "if the machine was busy, measure again with `mlo apply SPEC --replace benchmark.server`"
    remedy = (
        f"{again}; else relax `slo:`, give it more `hardware:`, or take the best one with `slo: {{enforce: false}}`"
    )
    if "inconclusive" in levels.values():
        remedy = f"give measuring more time with `optimize.time_budget`, or {remedy}"
    return StepError(
        "E501",
        f"no candidate meets the SLO: {distances}",
        cause="the 99th percentile must be within the limit at a confidence of 99 %, and every request be answered",
        remedy=remedy,
        at=("slo",),
        notes=others,
    )
