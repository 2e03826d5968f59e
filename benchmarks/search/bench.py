"""Runs the search and the exhaustive one on a model, in stores that keep every finished step, and tells how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import median

from space import plain_candidates, variants, with_options

from orchestrator.artifacts.round_report import RoundReport
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.artifacts.verdict import Verdict
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.events import Event, Queued, StepEnded, StepsPlanned
from orchestrator.measure.statistics import Comparison
from orchestrator.optimize.combinations import relaxed
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.expand import expand
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.search.budget import Budget
from orchestrator.plan.search.judgement import Field
from orchestrator.plan.search.rounds import ServerTime
from orchestrator.plan.step import Failed, Growth, Plan, Step, Succeeded, Took
from orchestrator.plan.steps.benchmark import round_step
from orchestrator.plan.steps.source import import_step
from orchestrator.plan.steps.variants import variant_steps
from orchestrator.plan.steps.verify import verify_step
from orchestrator.store.home import Home
from orchestrator.store.store import Store

__all__ = ["Bench", "Found", "exhaustive", "finals", "searched"]

_FINALISTS = 8
"""Of the exhaustive search, as many of the fastest are measured once more, beside the search's result: the fastest of many hundred is
one that was lucky."""

_AFTER = frozenset({"benchmark.server", "select", "render"})
_LONGEST = 600.0
"""Seconds that measuring one group may take; far more than it does."""


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        best: the fastest candidates, the best first.
        made: variants that were made and held their gates on at least one backend.
        measured: how many candidates were measured.
        seconds: during which its steps ran.
    """

    best: tuple[Candidate, ...]
    made: int
    measured: int
    seconds: float


class Bench:
    """One model's plans and a store that keeps what was done, so that a run that was killed goes on.

    Args:
        spec: with the search.
        plain: the same without it.
        home: of the store.
        what: is run there, for people.
    """

    def __init__(self, spec: Path, plain: Path, home: Path, what: str) -> None:
        self.store = Store.at(Home(home))
        self.store.home.prepare()
        self._spec, self._plain, self._what = spec, plain, what

    def planned(self, *, search: bool) -> Planned:
        """The plan of the spec."""
        return make_plan(self._spec if search else self._plain, self.store)

    def run(self, planned: Planned, plan: Plan, part: str) -> dict[str, Outcome]:
        """Run a plan, and how its steps ended."""
        resolver = Resolver(planned.loaded, plan, self.store)
        progress = _Progress(f"{self._what}, {part}", plan)
        return run_plan(planned.loaded, plan, resolver, self.store, observer=progress, stop=Stop())

    def output(self, outcome: Outcome) -> Path:
        """What a step left."""
        assert outcome.receipt is not None
        assert outcome.receipt.manifest is not None
        return self.store.trees.path(outcome.receipt.manifest.digest)


def searched(bench: Bench) -> Found:
    """What is the fastest in the runtime benchmark after a search, as `mlo apply` runs it up to there."""
    planned = bench.planned(search=True)
    outcomes = bench.run(planned, _without_servers(planned.plan), "the search")
    report = RuntimeReport.read(bench.output(outcomes["benchmark.runtime"]))
    timed = {each.candidate: each.measured.batches[0].p50 for each in report.candidates if each.measured is not None}
    rounds = [RoundReport.read(bench.output(outcomes[name])) for name in outcomes if name.startswith("benchmark.round")]
    names = {each.candidate for report in rounds for each in report.candidates if each.times}
    before = {name: outcome for name, outcome in outcomes.items() if name != "benchmark.runtime"}
    (last,) = expand(planned.plan, before, bench.store.trees).growths
    assert isinstance(last.grow, ServerTime), "the growth after the runtime benchmark knows the finalists"
    best = sorted((each for each in last.grow.finalists if each.name in timed), key=lambda each: timed[each.name])
    held = {each.variant for report in rounds for each in report.candidates if each.times}
    return Found(tuple(best), len(held), len(names), _spent(outcomes.values()))


def exhaustive(bench: Bench, *, group_size: int, short: bool) -> Found:
    """The fastest of all combinations.

    Args:
        bench: where it runs.
        group_size: how many are measured in turns, besides the plain candidate; each is a process with the model in memory.
        short: try fewer.
    """
    planned = bench.planned(search=False)
    converted = _made(planned, plain_candidates(variants(planned, short=True)[:1]))
    outcomes = bench.run(planned, _only(planned, converted), "converting")
    operators = VariantFacts.read(bench.output(outcomes["convert.onnx"])).operators
    plain = plain_candidates(variants(planned, None if operators is None else frozenset(operators), short=short))
    outcomes = bench.run(planned, _only(planned, _made(planned, plain)), "making and verifying")
    failed = [each for each in plain if len(each.variant.passes) == 1 and _failed(bench, outcomes, each)]
    mended = [replace(each, variant=other) for each in failed if (other := relaxed(each.variant)) is not None]
    plain += [each for each in mended if each not in plain]
    made = _made(planned, plain)
    outcomes = bench.run(planned, _only(planned, made), "making what failed its gates anew") if mended else outcomes
    good = [each for each in plain if _passed(bench, outcomes, each)]
    every = [each for candidate in good for each in with_options(candidate, short=short)]
    reference = next(each for each in good if not each.variant.passes)
    others = [each for each in every if each != reference]
    groups = [others[start : start + group_size] for start in range(0, len(others), group_size)]
    measuring = [_measuring(planned, [reference, *group], f"group-{n}") for n, group in enumerate(groups, 1)]
    print(f"{len(every)} combinations of {len(good)} candidates to measure in {len(groups)} groups", flush=True)
    outcomes = bench.run(planned, _only(planned, [*made, *measuring]), "measuring")
    ratios = {reference.name: 1.0}
    for step in measuring:
        ratios |= _ratios(bench, outcomes[step.id], reference)
    best = sorted((each for each in every if each.name in ratios), key=lambda each: ratios[each.name])
    # What is refused takes time too, but who tries everything by hand would leave it out.
    seconds = _spent(each for each in outcomes.values() if each.status == "done")
    return Found(tuple(best[:_FINALISTS]), len({each.variant.name for each in good}), len(ratios), seconds)


def finals(bench: Bench, one: Candidate, others: Sequence[Candidate]) -> tuple[Candidate, Comparison]:
    """The best of the others that holds its gates, measured once more in turns, and how many times as long the first one takes."""
    planned = bench.planned(search=False)
    together = [one, *(each for each in others if each != one)]
    step = _measuring(planned, together, "finals", verified_by_itself=True)
    made = _made(planned, together, verified_by_itself=True)
    outcomes = bench.run(planned, _only(planned, [*made, step]), "the best of both once more")
    field = Field(RoundReport.read(bench.output(outcomes[step.id])), "latency")
    passed = {each.name: each for each in others if _passed(bench, outcomes, each)}
    # Of two with the same file and options, the round measures the first.
    measured = {
        each.same_as or each.candidate: passed[each.candidate]
        for each in field.report.candidates
        if each.candidate in passed
    }
    mine = field.result(one.name)
    best = next((each for each in field.measured if each.candidate in measured), None)
    comparison = None if mine is None or best is None else field.compare(mine, best)
    if best is None or comparison is None:
        raise SystemExit(f"{one.name} could not be compared: {field.report.model_dump_json(indent=1)}")
    return measured[best.candidate], comparison


def _made(planned: Planned, candidates: Sequence[Candidate], *, verified_by_itself: bool = False) -> list[Step]:
    """The steps that make and verify these candidates; options of the runtime are verified by the plain one, unless by themselves."""
    loaded, model, here = planned.loaded, planned.plan.model, planned.plan.here
    assert model is not None
    verified = [each for each in candidates if verified_by_itself or not each.options.changed()]
    return [
        import_step(loaded, model, here),
        *variant_steps(loaded, model, candidates),
        *(verify_step(loaded, model, each) for each in verified),
    ]


def _only(planned: Planned, steps: Sequence[Step]) -> Plan:
    return replace(planned.plan, steps=tuple(steps), growths=())


def _without_servers(plan: Plan) -> Plan:
    """The plan up to the runtime benchmark, however it grows."""
    steps = tuple(step for step in plan.steps if not step.live and step.id not in _AFTER)
    growths = tuple(_before_servers(each) for each in plan.growths if each.after != ("benchmark.runtime",))
    return replace(plan, steps=steps, growths=growths)


def _before_servers(growth: Growth) -> Growth:
    def grow(plan: Plan, ended: Mapping[str, Succeeded | Failed]) -> Plan:
        return _without_servers(growth.grow(plan, ended))

    return replace(growth, grow=grow)


def _measuring(
    planned: Planned, candidates: Sequence[Candidate], name: str, *, verified_by_itself: bool = False
) -> Step:
    """The step that measures all of these in turns to the end; as in `_made`, options of the runtime are verified by the plain one."""
    assert planned.plan.model is not None
    step = round_step(
        planned.loaded,
        planned.plan.model,
        planned.plan.here,
        candidates,
        1,
        unverified=frozenset(each.name for each in candidates if each.options.changed() and not verified_by_itself),
        time_budget=_LONGEST,
    )
    changed = {"drops": False, "references": [candidates[0].name], "at_once": len(candidates)}
    return replace(step, id=f"benchmark.{name}", params={**step.params, **changed})


def _ratios(bench: Bench, outcome: Outcome, reference: Candidate) -> dict[str, float]:
    field = Field(RoundReport.read(bench.output(outcome)), "latency")
    first = field.result(reference.name)
    assert first is not None
    return {
        each.candidate: median(ratios)
        for each in field.measured
        if each.candidate != reference.name and (ratios := field.ratios(each, first))
    }


def _passed(bench: Bench, outcomes: Mapping[str, Outcome], candidate: Candidate) -> bool:
    outcome = outcomes[f"verify.{candidate.name}"]
    return outcome.status == "done" and Verdict.read(bench.output(outcome)).passed


def _failed(bench: Bench, outcomes: Mapping[str, Outcome], candidate: Candidate) -> bool:
    outcome = outcomes[f"verify.{candidate.name}"]
    return outcome.status == "done" and not Verdict.read(bench.output(outcome)).passed


def _spent(outcomes: Iterable[Outcome]) -> float:
    """Seconds during which at least one of the steps ran, as the search itself counts them; two may run at once."""
    ended: dict[str, Succeeded | Failed] = {}
    for number, each in enumerate(outcomes):
        took = each.took
        if each.receipt is not None:
            took = Took(datetime.fromisoformat(each.receipt.started).timestamp(), each.receipt.seconds)
        if took is not None:
            ended[str(number)] = Succeeded(Path(), took)
    return Budget(float("inf"), ended).spent


class _Progress:
    """Prints a line for each step that ends, with how far the plan is and, unless it may still grow, how long the rest will take."""

    def __init__(self, what: str, plan: Plan) -> None:
        self._what, self._total = what, len(plan.steps)
        self._ended, self._computed = 0, 0
        self._since = time.monotonic()
        self._grows = bool(plan.growths)
        self._queued: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Observe an event; what is skipped or cached, or was refused before, is counted and not printed."""
        if isinstance(event, StepsPlanned):
            self._total = len(event.steps)
        if isinstance(event, Queued) and event.step not in self._queued:
            self._queued.add(event.step)
            print(f"{self._what}: {event.step} waits for another measurement on this machine", flush=True)
        if not isinstance(event, StepEnded):
            return
        self._ended += 1
        if event.status not in {"done", "failed"} or (event.status == "failed" and not event.seconds):
            return
        self._computed += 1
        each = (time.monotonic() - self._since) / self._computed
        left = "" if self._grows else f", about {_minutes(each * (self._total - self._ended))} left"
        print(
            f"{self._what}: {self._ended} of {self._total}{left}; "
            f"{event.step}: {event.status} in {event.seconds:.1f} s {event.detail}",
            flush=True,
        )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
