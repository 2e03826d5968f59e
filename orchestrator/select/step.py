"""The step `select`: picks the winner, and gives every candidate a fate with a reason. Rules in docs/measuring.md."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.decision import DecidedCandidate, DecidedLevel, Decision
from orchestrator.artifacts.fates import Fates
from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport, ServiceLevel
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.artifacts.verdict import Verdict
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import BACKENDS, backend, serving_backend
from orchestrator.backends.versions import installed_closure
from orchestrator.measure.finalists import NOT_MEASURABLY
from orchestrator.select.chart import chart
from orchestrator.select.fates import ConsideredCandidate, candidate_before_selection
from orchestrator.select.notes import decision_notes
from orchestrator.select.ranking import Choice, choose, choose_by_runtime, compared
from orchestrator.select.service_level import (
    distance,
    distance_text,
    faster_wire,
    service_level,
    was_disturbed,
    wire_is_the_cause,
)
from orchestrator.select.sizing import cost_per_million, proven_rate, sized
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import SelectParameters
from orchestrator.steps.reasons import headline
from orchestrator.steps.roles import variant_of, variant_role, verdict_role
from orchestrator.store.digest import digest_tree

__all__ = ["select", "startup_bound"]

CONFIDENCE = 0.99

_METHOD = {
    "percentile": "nearest rank over all samples pooled",
    "slo": "exact one-sided binomial test; ends early only at 99.99 %; refused requests count as over the limit",
    "tie": "within 5 %, or overlapping 95 % intervals of the p99 (order statistics) or ranges of the saturated segments",
    "against the baseline": "median of ratios over interleaved rounds, 95 % interval of the sign test",
    "latency": "open loop with Poisson arrivals, measured from the scheduled time",
}


def select(context: StepContext) -> dict[str, Any]:
    """Pick the winner; writes a `Decision` and `chart.svg` if anything was measured; a `Winner` and its `Sizing` if one won.

    Inputs: `import`, `fates`, and if they exist `runtime`, `server`, `verdict:CANDIDATE`, `variant:VARIANT`.

    Raises:
        StepError: E501 no candidate meets the service level, E502 no candidate is left. The decision is written then too.
    """
    parameters = SelectParameters.from_json(context.params)
    runtime = RuntimeReport.read(context.inputs["runtime"]) if "runtime" in context.inputs else None
    server = ServerReport.read(context.inputs["server"]) if "server" in context.inputs else None
    candidates = _candidates(context, parameters, runtime, server)
    left = [c for c in candidates if c.fate is None]
    wanted = ServiceLevel(p99_latency=parameters.slo.p99_latency, throughput=parameters.slo.throughput)
    levels = {c.name: _level(c, asked=parameters.slo.asked) for c in left}
    good = [c for c in left if levels[c.name] in {"met", "none"}]
    met = bool(good)
    choice = _choice(good or left, parameters.objective) if good or (left and not parameters.slo.enforce) else None
    decided = [
        c
        if c.fate is not None
        else _concluded(c, choice, level=levels[c.name], met=met, objective=parameters.objective)
        for c in candidates
    ]
    refusal = None
    if choice is None:
        unproven = left or [c for c in decided if runtime is None and c.fate == "not measured"]
        refusal = _service_level_not_met(unproven, decided, levels) if unproven else _no_candidate_left(decided)
    variants = {variant: path for role, path in context.inputs.items() if (variant := variant_of(role)) is not None}
    measured_on = server or runtime
    imported = Imported.read(context.inputs["import"])
    decision = Decision(
        winner=None if choice is None else choice.winner.identity,
        refusal=None if refusal is None else refusal.diagnostic,
        candidates=tuple(
            _decided(each, variants.get(each.identity.variant), parameters.price_per_hour) for each in decided
        ),
        compared=None if choice is None else choice.compared,
        baseline=None if runtime is None else runtime.baseline,
        slo=DecidedLevel(
            **dict(wanted),
            total_throughput=parameters.slo.total_throughput,
            enforce=parameters.slo.enforce,
            met=choice is not None and levels[choice.winner.name] == "met",
        ),
        objective=parameters.objective,
        rate=None if server is None else server.rate,
        samples=imported.samples,
        confidence=CONFIDENCE,
        measured_on=None if measured_on is None else measured_on.measured_on,
        load_generator=None if server is None else server.load_generator,
        method=_METHOD,
        one_by_one=imported.one_by_one,
        notes=decision_notes(parameters, variants, (runtime, server), decided, choice, met=met),
    )
    _draw(decision, context.output).write(context.output)
    if refusal is not None:
        raise refusal
    assert choice is not None, "nothing was refused"
    winner = _winner(context, parameters, choice.winner)
    winner.write(context.output)
    shares_cpus = server is not None and server.load_generator.shares_cpus
    sized(choice.winner.over_the_wire, parameters, shares_cpus=shares_cpus).write(context.output)
    reason = next(c.reason for c in decided if c.fate == "won")
    return {"winner": winner.candidate, "backend": winner.backend, "reason": reason}


def _draw(decision: Decision, folder: Path) -> Decision:
    """Write the chart; if it cannot be drawn, a note of the decision says so."""
    try:
        drawn = chart(decision)
    except Exception as error:  # noqa: BLE001 - whatever it is, the decision stands; the log has the traceback
        traceback.print_exc()
        note = f"there is no chart.svg, because it could not be drawn: {type(error).__name__}: {headline(error)}"
        return decision.model_copy(update={"notes": (*decision.notes, note)})
    if drawn:
        (folder / "chart.svg").write_text(drawn, encoding="utf-8")
    return decision


def startup_bound(ready_seconds: float, least: int) -> int:
    """A generous limit on the startup time, seconds: three times the measured one, rounded up to `least` times 1, 2, 4, ...

    The steps are coarse, so that measuring the same server again gives the same deployment.

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
) -> list[ConsideredCandidate]:
    """All candidates in the order of the parameters, with the fates that they have before the selection."""
    steps = Fates.read_file(context.inputs["fates"]).steps
    at_runtime = {} if runtime is None else {row.candidate: row for row in runtime.candidates}
    at_server = {} if server is None else {row.candidate: row for row in server.candidates}
    found = []
    for each in parameters.candidates:
        name = each.candidate
        verdict = context.inputs.get(verdict_role(name))
        found.append(
            candidate_before_selection(
                each,
                own_steps=parameters.steps[name],
                steps=steps,
                verdict=None if verdict is None else Verdict.read(verdict),
                runtime=at_runtime.get(name),
                server=at_server.get(name),
                objective=parameters.objective,
                runtime_level=parameters.runtime_level,
                searched=parameters.searched.get(name),
            )
        )
    refused = (
        ConsideredCandidate(candidate_identity(each)).with_fate("refused", each.reason) for each in parameters.refused
    )
    return [*found, *refused]


_Level = Literal["met", "missed", "inconclusive", "none", "not measured"]


def _level(candidate: ConsideredCandidate, *, asked: bool) -> _Level:
    """As `service_level`; and `not measured` if the spec sets one and the server was not measured."""
    if candidate.over_the_wire is not None:
        return service_level(candidate.over_the_wire)
    return "not measured" if asked else "none"


def _choice(candidates: Sequence[ConsideredCandidate], objective: Objective) -> Choice:
    """Candidates measured over the wire take precedence, because a runtime's numbers say nothing about its server.

    If candidates for devices may win, the target is a folder, and all candidates are compared by their runtimes.
    """
    if any(not BACKENDS[candidate.backend].served for candidate in candidates):
        return choose_by_runtime(candidates, objective)
    served = [candidate for candidate in candidates if candidate.over_the_wire is not None]
    return choose(served, objective) if served else choose_by_runtime(candidates, objective)


def _concluded(
    candidate: ConsideredCandidate, choice: Choice | None, *, level: _Level, met: bool, objective: Objective
) -> ConsideredCandidate:
    """A candidate that was still in the running, with its fate; without a choice, none meets the service level."""
    if choice is not None and candidate is choice.winner:
        short = "not proven" if level in {"not measured", "inconclusive"} else "not met"
        reason = choice.reason if met else f"{choice.reason}; SLO {short}: {_distance(candidate)}"
        return candidate.with_fate("won", reason)
    if met or choice is None:
        if level == "missed":
            return candidate.with_fate("slo missed", _distance(candidate))
        if level in {"inconclusive", "not measured"}:
            return candidate.with_fate("inconclusive", _distance(candidate))
    assert choice is not None, "a candidate that meets the service level wins or loses"
    return candidate.with_fate("lost", compared(candidate, choice, objective))


def _distance(candidate: ConsideredCandidate) -> str:
    if candidate.over_the_wire is None:
        return f"not measured over the wire: {candidate.without_server}"
    return distance_text(candidate.over_the_wire)


def _decided(found: ConsideredCandidate, variant: Path | None, price_per_hour: float | None) -> DecidedCandidate:
    assert found.fate is not None, "the choice has been made"
    wire = found.over_the_wire
    return DecidedCandidate(
        **dict(found.identity),
        fate=found.fate,
        reason=found.reason,
        error=found.error,
        runtime=None if found.runtime is None else found.runtime.measured,
        server=wire,
        slo=None if wire is None else service_level(wire),
        distance=None if wire is None else distance(wire),
        proven_rate=None if wire is None else proven_rate(wire),
        cost_per_million=None if wire is None else cost_per_million(wire, price_per_hour),
        gates=() if found.verdict is None else found.verdict.gates,
        accuracy={} if found.verdict is None else found.verdict.accuracy,
        frozen=() if variant is None else VariantFacts.read(variant).frozen,
    )


def _winner(context: StepContext, parameters: SelectParameters, winner: ConsideredCandidate) -> Winner:
    """What is deployed: all that was decided, without measurements."""
    assert winner.server is not None, "the winner has a result in the server benchmark"
    assert winner.server.settings is not None, "the winner has server settings"
    wire = winner.over_the_wire
    return Winner(
        **dict(winner.identity),
        options=next(c.options for c in parameters.candidates if c.candidate == winner.name),
        signature=Imported.read(context.inputs["import"]).signature,
        max_batch_size=winner.server.settings.max_batch_size,
        max_delay=winner.server.settings.max_delay,
        startup_seconds=startup_bound(
            winner.in_runtime.load_seconds if wire is None else wire.ready_seconds,
            backend(winner.backend).least_startup,
        ),
        model_digest=digest_tree(context.inputs[variant_role(winner.identity.variant)]).digest,
        tools=installed_closure(backend(winner.backend).tools, cuda=parameters.accelerator == "cuda"),
    )


def _fates(candidates: Sequence[ConsideredCandidate]) -> tuple[str, ...]:
    return tuple(f"{c.name}: {c.fate}: {c.reason}" for c in candidates)


def _no_candidate_left(candidates: Sequence[ConsideredCandidate]) -> StepError:
    at: tuple[str, ...] = ("optimize",)
    if any(c.fate == "undecided" for c in candidates):
        cause = "the time budget ended before any candidate could be shown to be faster than the original model"
        remedy = "raise `optimize.time_budget`, or set fewer `benchmark.batch_sizes`"
    elif any(c.fate == "not faster than the baseline" for c in candidates):
        cause = "no candidate that passed verification is faster than the original model"
        remedy = _faster_elsewhere(candidates)
    else:
        cause = "each one was refused, failed or could not be measured"
        # Where one remedy helps all that failed, it is this one.
        remedies = {"" if c.error is None else c.error.remedy for c in candidates if c.fate != "refused"}
        common = remedies.pop() if len(remedies) == 1 else ""
        remedy = (
            common or "remove the reason given for one of them, or allow other formats and precisions under `optimize:`"
        )
        if all(c.fate in {"out of memory", "refused"} for c in candidates):
            at = ("hardware", "memory")
    return StepError(
        "E502",
        "no candidate is left",
        cause=cause,
        remedy=remedy,
        at=at,
        notes=_fates(candidates),
        keeps_output=True,
    )


def _faster_elsewhere(candidates: Sequence[ConsideredCandidate]) -> str:
    """What may help where the original model is the fastest of those that passed verification."""
    ways = ["allow the formats and precisions that `optimize:` leaves out"]
    if any(c.fate == "verification failed" for c in candidates):
        ways.append("widen in `verify:` the limits that candidates missed")
    if any(c.reason.startswith(NOT_MEASURABLY) for c in candidates if c.fate == "not faster than the baseline"):
        ways.append("raise `optimize.time_budget`, since small differences need more rounds")
    return " or ".join([", ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]


def _other_wire(slowed: Sequence[ConsideredCandidate]) -> str:
    """What helps candidates whose calls take long because of the wire."""
    measured = [best.wire for c in slowed if c.over_the_wire is not None and (best := faster_wire(c.over_the_wire))]
    if measured:
        return f"set `serving.wire: {measured[0]}`, which clients must use then"
    used = {c.over_the_wire.wire for c in slowed if c.over_the_wire is not None}
    if used == {"json"} and any("binary" in serving_backend(c.backend).wires for c in slowed):
        return "if clients can send raw tensors, set `serving.wire: binary`"
    return "send less in a request, such as uint8 instead of float32"


def _service_level_not_met(
    left: Sequence[ConsideredCandidate], candidates: Sequence[ConsideredCandidate], levels: Mapping[str, _Level]
) -> StepError:
    """The error if only the service level keeps candidates from winning.

    Args:
        left: these candidates.
        candidates: all of them, with their fates.
        levels: of those in `left` that were measured.
    """
    if all(c.over_the_wire is None for c in left):
        cause = "a service level can only be proven over the wire, and no server could be measured"
        remedy = "install what is missing (run `mlo doctor`), or set `slo: {enforce: false}`"
    else:
        cause = "the 99th percentile must be within the limit at 99 % confidence, and every request must be answered"
        once_more = "measure again with `mlo apply SPEC --replace benchmark.server`"
        again = f"if the machine was busy, {once_more}"
        busy = {c.name for c in left if c.over_the_wire is not None and was_disturbed(c.over_the_wire)}
        if busy:
            again = f"{once_more} when less else runs on this machine"
        remedy = (
            f"{again}; otherwise relax `slo:`, raise `hardware.cpus`, or accept the best candidate with "
            "`slo: {enforce: false}`"
        )
        slowed = [
            c for c in left if c.over_the_wire is not None and c.name not in busy and wire_is_the_cause(c.over_the_wire)
        ]
        if slowed:
            remedy = f"{_other_wire(slowed)}; {remedy}"
        if any(level == "inconclusive" and name not in busy for name, level in levels.items()):
            remedy = f"raise `optimize.time_budget`, or {remedy}"
    unproven = "inconclusive" in levels.values() and "missed" not in levels.values()
    return StepError(
        "E501",
        "no candidate is proven to meet the SLO" if unproven else "no candidate meets the SLO",
        cause=cause,
        remedy=remedy,
        at=("slo",),
        notes=_fates(candidates),
        keeps_output=True,
    )
