"""The rounds of a search: how a plan grows from its plain candidates to the finalists, within the time budget.

The plain candidates, and what is made of those that failed their gates so that they hold, are measured cheaply, and those that
are clearly dominated are dropped. Of those that lead, one thing at a time is changed; what helps is combined, what does not help
alone is not. The best of each and the plain ones that led go on to the runtime benchmark and to the servers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import TYPE_CHECKING

from orchestrator.artifacts.round_report import RoundReport, RoundResult
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.artifacts.verdict import Verdict
from orchestrator.measure.statistics import FEWEST_ROUNDS
from orchestrator.optimize.changes import Change, changed_together, changes_of
from orchestrator.optimize.combinations import relaxed, variants_to_try
from orchestrator.plan.search.budget import Budget
from orchestrator.plan.search.judgement import Field, compared, dropped, faster, fate_without_times, leaders
from orchestrator.plan.step import Failed, Growth, Plan, Step, StepOutput, Succeeded
from orchestrator.plan.steps.benchmark import (
    AT_ONCE,
    round_id,
    round_step,
    runtime_benchmark_step,
    server_benchmark_step,
)
from orchestrator.plan.steps.release import render_step
from orchestrator.plan.steps.select import Searched, select_step
from orchestrator.plan.steps.variants import step_timeout, variant_steps
from orchestrator.plan.steps.verify import verify_step
from orchestrator.spec.quantities import duration_text
from orchestrator.steps.parameters import SearchedParameters
from orchestrator.steps.roles import ROUND

if TYPE_CHECKING:
    from orchestrator.machine.here import Here
    from orchestrator.optimize.variants import Candidate, RefusedCandidate, Variant
    from orchestrator.plan.found import PlannedModel
    from orchestrator.spec.load import LoadedSpec

__all__ = ["Search", "with_search"]

Ended = Mapping[str, Succeeded | Failed]

_TAIL = frozenset({"benchmark.runtime", "benchmark.server", "select", "render"})
"""The ids of the steps that are made anew in each round."""

_SHORTEST = 5.0
"""Seconds that a measurement gets at least, even if the time budget has been used up: without one there is no decision."""

_FIRST_SHARE = 0.5
"""The part of the rounds' time that the first one may take."""

_RUNTIME_SHARE, _RUNTIME_AT_MOST = 0.4, 0.7
"""The part of the finalists' time that their runtimes may take, and what it may be if they need more; the servers get what is
left."""

_ALL_SIZES, _MEASURING, _SERVER = 2.0, 12.0, 12.0
"""What the finalists need, seconds: to load and warm up for all batch sizes, as a multiple of what it took in a round; for the
turns of the runtime benchmark; and for each server."""

_JUDGED_SHARE, _TRIALS = 0.25, 12
"""Of the time budget, what a pass may take that tries until the gates hold, such as one that leaves out layers, and how many times as long
as the pass without that it is expected to take."""

_SPARE = 0.8
"""The part of a step's time after which such a pass ends by itself with the best that it has found."""

_LAST_ROUND = 3


@dataclass(frozen=True, slots=True)
class Entrant:
    """A candidate of a later round.

    Attributes:
        candidate: the changed one.
        parent: the name of the one that leads, which it differs from.
        changes: that were made.
    """

    candidate: Candidate
    parent: str
    changes: tuple[Change, ...]

    @property
    def of_runtime(self) -> bool:
        """Whether its variant is its parent's, so that it is measured before it is verified."""
        return all(change.of_runtime for change in self.changes)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a search knows after a round.

    Attributes:
        tried: all candidates that have steps, the plain ones first.
        first: those of the first round: the plain ones, and what replaces those that failed their gates.
        leading: names of the candidates that the next round starts from.
        entrants: of the round that runs.
        fates: of those that dropped out.
        unverified: names of those that have no step that verifies them.
        not_made: candidates that were left out for lack of time.
        notes: about the search, for the decision.
    """

    tried: tuple[Candidate, ...]
    first: tuple[Candidate, ...]
    leading: tuple[str, ...] = ()
    entrants: tuple[Entrant, ...] = ()
    fates: Mapping[str, SearchedParameters] = field(default_factory=dict)
    unverified: frozenset[str] = frozenset()
    not_made: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()

    def named(self, names: Iterable[str]) -> tuple[Candidate, ...]:
        """The tried candidates of these names, in the order in which they were tried."""
        wanted = frozenset(names)
        return tuple(each for each in self.tried if each.name in wanted)


@dataclass(frozen=True, slots=True)
class Search:
    """What does not change while a search runs.

    Attributes:
        plain: the candidates that the spec asks for.
        refused: what is not tried, with the reasons.
    """

    loaded: LoadedSpec
    model: PlannedModel
    here: Here
    plain: tuple[Candidate, ...]
    refused: tuple[RefusedCandidate, ...]

    @property
    def total(self) -> float:
        """Seconds of the time budget."""
        return self.loaded.spec.optimize.time_budget

    def tail(
        self,
        standing: Standing,
        finalists: Sequence[Candidate],
        last: int,
        runtime: float | None = None,
        server: float | None = None,
    ) -> tuple[Step, ...]:
        """The steps after the rounds.

        Args:
            standing: what is known.
            finalists: that they measure.
            last: the number of the last round, which they come after; 0 without one.
            runtime: seconds for the runtimes; None for the spec's time budget.
            server: seconds for the servers.
        """
        loaded, model, here = self.loaded, self.model, self.here
        benchmark = runtime_benchmark_step(loaded, model, here, finalists, runtime)
        if last:
            benchmark = replace(benchmark, inputs={**benchmark.inputs, ROUND: StepOutput(round_id(last))})
        searched = Searched(standing.fates, standing.unverified, standing.not_made, standing.notes)
        return (
            benchmark,
            server_benchmark_step(loaded, model, here, finalists, server),
            select_step(loaded, standing.tried, self.refused, searched),
            render_step(loaded, model, here, finalists),
        )


def with_search(plan: Plan, search: Search) -> Plan:
    """A plan of the plain candidates that grows by a search, once these are verified."""
    verified = tuple(f"verify.{each.name}" for each in search.plain)
    grow = SearchRound(search, 0, Standing(search.plain, search.plain))
    return replace(plan, growths=(Growth(verified, "the first round of the search", grow),))


@dataclass(frozen=True, slots=True)
class SearchRound:
    """Lets the plan grow after a round; round 0 is the verification of the plain candidates."""

    search: Search
    number: int
    standing: Standing

    def __call__(self, plan: Plan, ended: Ended) -> Plan:
        """See `Growth.grow`."""
        budget = Budget(self.search.total, ended)
        if self.number == 0:
            return self._first(plan, budget, ended)
        report = ended[round_id(self.number)]
        if isinstance(report, Failed):  # nobody was left to measure
            return self._finals(plan, budget, self.standing, self.standing.first)
        found = Field(report.read(RoundReport), self.search.loaded.spec.optimize_for)
        return self._second(plan, budget, found, ended) if self.number == 1 else self._later(plan, budget, found)

    def _first(self, plan: Plan, budget: Budget, ended: Ended) -> Plan:
        """Measure the plain candidates, and what is made of those that failed their gates so that it holds them."""
        search, plain = self.search, self.search.plain
        standing, spare = self._mended(plan, budget, ended)
        time = floor(_FIRST_SHARE * spare)
        if time < _SHORTEST:
            note = (
                f"the search did not begin: making and verifying the candidates took {budget.spent:.0f} s of "
                f"{duration_text(budget.total)}; raise `optimize.time_budget`"
            )
            return self._finals(plan, budget, replace(standing, notes=(note,)), plain)
        preparing = self._steps(standing.first, {step.id for step in plan.steps}, frozenset())
        preparing = self._limited(preparing, budget.for_rounds() - time)
        step = round_step(search.loaded, search.model, search.here, standing.first, 1, time_budget=float(time))
        return self._grown(plan, [*preparing, step], 1, standing)

    def _mended(self, plan: Plan, budget: Budget, ended: Ended) -> tuple[Standing, float]:
        """What is tried of the plain candidates that failed their gates, and the seconds that are left for the rounds.

        Each is for the backend whose gates failed, whatever else passed, since only measuring shows which is the fastest.
        """
        failed = [each for each in self.search.plain if _failed_its_gates(ended.get(f"verify.{each.name}"))]
        spare, planned = budget.for_rounds(), {step.id for step in plan.steps}
        made: list[Candidate] = []
        fates: dict[str, SearchedParameters] = {}
        not_made: list[Candidate] = []
        for each in failed:
            if (variant := relaxed(each.variant)) is None:
                continue
            candidate = replace(each, variant=variant)
            cost = self._making(candidate, budget, planned)
            if _FIRST_SHARE * (spare - cost) >= _SHORTEST:
                made.append(candidate)
                spare -= cost
                planned |= set(variant.steps)
            else:
                fates[candidate.name] = _no_time(cost, spare, budget)
                not_made.append(candidate)
        first = (*self.search.plain, *made)
        return replace(self.standing, tried=first, first=first, fates=fates, not_made=tuple(not_made)), spare

    def _second(self, plan: Plan, budget: Budget, found: Field, ended: Ended) -> Plan:
        """Drop what is dominated, and change one thing at a time of those that lead."""
        leading = leaders(found)
        if not leading:  # the runtime benchmark says why nothing can be measured
            return self._finals(plan, budget, self.standing, self.standing.first)
        standing = replace(self.standing, fates={**self.standing.fates, **dropped(found)}, leading=leading)
        spec = self.search.loaded.spec
        at_once = spec.optimize_for != "latency"
        entrants = [
            Entrant(change.applied(leader), leader.name, (change,))
            for leader in standing.named(standing.leading)
            for change in changes_of(leader, self._variants(leader, ended), spec.hardware.cpus, at_once=at_once)
        ]
        return self._next(plan, budget, found, standing, entrants)

    def _variants(self, leader: Candidate, ended: Ended) -> list[Variant]:
        """The variants to try for a candidate that leads: of its precision, and of those that failed their gates on its backend.

        A precision that passed its gates and does not lead did not help, so its options are not tried.
        """
        spec = self.search.loaded.spec
        mine = leader.variant
        failed = [
            each.variant
            for each in self.search.plain
            if (each.variant.format, each.backend) == (mine.format, leader.backend)
            and _failed_its_gates(ended.get(f"verify.{each.name}"))
        ]
        converted = ended.get(mine.steps[0])
        operators = converted.read(VariantFacts).operators if isinstance(converted, Succeeded) else None
        found = variants_to_try(
            mine.format,
            spec.model.source.kind,
            self.search.here,
            samples=spec.model.samples is not None,
            operators=None if operators is None else frozenset(operators),
            precisions={mine.precision, *(each.precision for each in failed)},
        )
        if mine not in map(relaxed, failed):
            return list(found)
        # It stays as it was mended when a pass is added, and making it so once more takes the longest.
        longer = [relaxed(each) for each in found if len(each.passes) > 1]
        return [*found, *(each for each in longer if each is not None)]

    def _later(self, plan: Plan, budget: Budget, found: Field) -> Plan:
        """Judge the changes by the candidates that they were made of, and combine those that help."""
        helped, fates = self._helped(found)
        standing = replace(self.standing, fates={**self.standing.fates, **fates})
        combinations = [] if self.number == _LAST_ROUND else self._combinations(helped)
        best, behind = self._best(found, helped)
        standing = replace(standing, fates={**standing.fates, **behind})
        if not combinations:
            return self._choose(plan, budget, found, standing, best)
        return self._next(plan, budget, found, replace(standing, entrants=best), combinations)

    def _best(
        self, found: Field, helped: Sequence[Entrant]
    ) -> tuple[tuple[Entrant, ...], dict[str, SearchedParameters]]:
        """Of each candidate that leads, the change that helps most; and the fates of the others that help."""
        best: dict[str, Entrant] = {}
        fates: dict[str, SearchedParameters] = {}
        for each in helped:  # the most helpful first
            first = best.setdefault(each.parent, each)
            if first is not each:
                one, other = found.result(each.candidate.name), found.result(first.candidate.name)
                comparison = None if one is None or other is None else found.compare(one, other)
                took = "" if comparison is None else f": it takes {compared(comparison)} {first.candidate.name}"
                text = f"it helps, but {first.candidate.name} helps {each.parent} more{took}"
                fates[each.candidate.name] = SearchedParameters("dominated", text)
        return tuple(best.values()), fates

    def _combinations(self, helped: Sequence[Entrant]) -> list[Entrant]:
        """Of each candidate that leads: all changes that help, at once; and of the options of a pass only the most helpful one.

        Of changes with one subject, the most helpful is taken; one that cannot be made with more helpful ones is left out. Two
        options of one pass may exclude each other in a way that only making them shows, so that both together would be lost.
        """
        found = []
        for leader in self.standing.named(self.standing.leading):
            mine = [each.changes[0] for each in helped if each.parent == leader.name]  # the most helpful first
            for changes in (_compatible(leader, mine), _compatible(leader, mine, options_at_once=1)):
                candidate = changed_together(leader, changes)
                if len(changes) > 1 and candidate is not None:
                    found.append(Entrant(candidate, leader.name, changes))
        return found

    def _helped(self, found: Field) -> tuple[list[Entrant], dict[str, SearchedParameters]]:
        """The entrants that are faster than their parents beyond doubt, the most helpful first; the fates of the others."""
        asked: list[tuple[Entrant, RoundResult, RoundResult]] = []
        fates: dict[str, SearchedParameters] = {}
        for entrant in self.standing.entrants:
            name = entrant.candidate.name
            result, parent = found.result(name), found.result(entrant.parent)
            if result is None or parent is None or name in self.standing.fates:
                continue
            if (fate := fate_without_times(result)) is not None:
                fates[name] = fate
            else:
                asked.append((entrant, result, parent))
        helped: list[tuple[float, Entrant]] = []
        proven = faster(found, [(result, parent) for _, result, parent in asked])
        for entrant, result, parent in asked:
            name, comparison = entrant.candidate.name, found.compare(result, parent)
            if comparison is not None and comparison.faster and name in proven:
                helped.append((comparison.ratio, entrant))
            elif comparison is None or comparison.high is None:
                text = f"compared with {entrant.parent} in fewer than {FEWEST_ROUNDS} turns, too few for an interval"
                fates[name] = SearchedParameters("not measured", text)
            else:
                chance = f", which may be chance: the round had {len(asked)} changes" if comparison.faster else ""
                text = f"it takes {compared(comparison)} {entrant.parent}{chance}"
                fates[name] = SearchedParameters("did not help", text)
        return [entrant for _, entrant in sorted(helped, key=lambda pair: pair[0])], fates

    def _next(self, plan: Plan, budget: Budget, found: Field, standing: Standing, entrants: Sequence[Entrant]) -> Plan:
        """The next round, with those of the entrants that there is time for; the finalists if there are none.

        `standing.entrants` are entrants of this round that are measured again, to compare the new ones with.
        """
        again = standing.entrants
        planned = {step.id for step in plan.steps}
        new = sorted(_new(entrants, standing), key=lambda entrant: _tries_until_gates_hold(entrant.candidate, planned))
        each = found.seconds_each
        # What the others are compared with is measured in each part of the round.
        compared_with = each * (len(standing.leading) + len(again))
        spare = budget.for_rounds(self._needed(found, standing))
        taken: list[Entrant] = []
        fates: dict[str, SearchedParameters] = {}
        for entrant in new:
            begins_a_part = len(taken) % AT_ONCE == 0
            making = 0.0 if entrant.of_runtime else self._making(entrant.candidate, budget, planned)
            cost = each + making + (compared_with if begins_a_part else 0.0)
            if cost <= spare:
                taken.append(entrant)
                spare -= cost
                planned |= set(entrant.candidate.variant.steps)
            else:
                fates[entrant.candidate.name] = _no_time(cost, spare, budget)
        standing = replace(
            standing,
            fates={**standing.fates, **fates},
            not_made=(*standing.not_made, *(e.candidate for e in new if e.candidate.name in fates)),
        )
        if not taken:
            return self._choose(plan, budget, found, standing, again)
        return self._round(plan, budget, found, standing, taken)

    def _needed(self, found: Field, standing: Standing) -> float:
        """Seconds that the finalists are expected to need."""
        first = sum(each.name not in standing.fates for each in standing.first)
        return self._runtime_needs(found, first + len(standing.leading)) + _SERVER * 2 * len(standing.leading)

    @staticmethod
    def _runtime_needs(found: Field, finalists: int) -> float:
        """Seconds that the runtime benchmark needs for them and the original model."""
        return _ALL_SIZES * found.seconds_each * (finalists + 1) + _MEASURING

    def _round(self, plan: Plan, budget: Budget, found: Field, standing: Standing, taken: Sequence[Entrant]) -> Plan:
        search, number = self.search, self.number + 1
        planned = {step.id for step in plan.steps}
        entrants = [*standing.entrants, *taken]
        made = [e.candidate for e in entrants]
        unverified = frozenset(
            e.candidate.name for e in entrants if e.of_runtime and f"verify.{e.candidate.name}" not in planned
        )
        new = [each for each in made if each not in standing.tried]
        time = budget.for_rounds(self._needed(found, standing))
        preparing = self._steps(new, planned, unverified)
        seconds = sum(budget.step(_like(step.id)) for step in preparing)
        measuring = [*standing.named(standing.leading), *made]
        preparing = self._limited(preparing, time - seconds - found.seconds_each * len(measuring))
        step = round_step(
            search.loaded,
            search.model,
            search.here,
            measuring,
            number,
            unverified=unverified,
            references=[*standing.leading, *(e.candidate.name for e in standing.entrants)],
            time_budget=float(max(_SHORTEST, floor(time - seconds))),
        )
        standing = replace(
            standing,
            tried=(*standing.tried, *new),
            entrants=tuple(entrants),
            unverified=standing.unverified | unverified,
        )
        return self._grown(plan, [*preparing, step], number, standing)

    def _steps(self, candidates: Sequence[Candidate], planned: set[str], unverified: frozenset[str]) -> list[Step]:
        """The steps that make and verify these candidates and are not in the plan."""
        search = self.search
        steps = variant_steps(search.loaded, search.model, candidates)
        steps += [verify_step(search.loaded, search.model, each) for each in candidates if each.name not in unverified]
        return [step for step in steps if step.id not in planned]

    def _limited(self, steps: Sequence[Step], seconds: float) -> list[Step]:
        """The steps, of which each may take so many seconds, so that none takes what is kept for others."""
        limit = min(step_timeout(self.search.loaded), max(30.0, seconds))
        judged = min(limit, max(30.0, _JUDGED_SHARE * self.search.total))
        found = []
        for step in steps:
            if step.kind == "optimize" and step.params.get("gates") is not None:
                own = float(floor(_SPARE * judged))
                found.append(replace(step, timeout=judged, params={**step.params, "time_budget": own}))
            else:
                found.append(replace(step, timeout=limit))
        return found

    def _making(self, candidate: Candidate, budget: Budget, planned: set[str]) -> float:
        """Seconds that making and verifying a candidate takes before it can be measured."""
        variant = candidate.variant
        seconds = budget.step(_like(f"verify.{candidate.name}"))
        for step, made in zip(variant.steps, (None, *variant.passes), strict=True):
            once = 0.0 if step in planned else budget.step(_like(step))
            judged = made is not None and made.options is not None and made.options.judged
            seconds += min(_TRIALS * once, _JUDGED_SHARE * self.search.total) if judged else once
        return seconds

    def _choose(self, plan: Plan, budget: Budget, found: Field, standing: Standing, best: Sequence[Entrant]) -> Plan:
        """The finalists: the candidates of the first round that are left, and of each that leads the change that helps most."""
        first = {each.name for each in standing.first if each.name not in standing.fates}
        chosen = first | {each.candidate.name for each in best}
        needs = self._runtime_needs(found, len(chosen))
        return self._finals(plan, budget, standing, standing.named(chosen), needs)

    def _finals(
        self, plan: Plan, budget: Budget, standing: Standing, finalists: Sequence[Candidate], needs: float = 0.0
    ) -> Plan:
        planned = {step.id for step in plan.steps}
        steps = self._limited(self._steps(finalists, planned, frozenset()), budget.left)
        left = budget.left - sum(budget.step(_like(step.id)) for step in steps)
        standing = replace(standing, unverified=standing.unverified - {each.name for each in finalists})
        runtime = max(_RUNTIME_SHARE * left, min(_RUNTIME_AT_MOST * left, needs))
        tail = self.search.tail(standing, finalists, self.number, float(max(_SHORTEST, floor(runtime))), _SHORTEST)
        growth = Growth(
            ("benchmark.runtime",), "the time that is left for servers", ServerTime(self.search, tuple(finalists))
        )
        return _put_together(plan, steps, tail, growth)

    def _grown(self, plan: Plan, steps: Sequence[Step], number: int, standing: Standing) -> Plan:
        """The plan with the steps of a round, and the growth after it."""
        grow = SearchRound(self.search, number, standing)
        further = "the finalists" if number == _LAST_ROUND else "the next round of the search"
        growth = Growth((round_id(number),), further, grow)
        return _put_together(plan, steps, self.search.tail(standing, standing.first, number), growth)


@dataclass(frozen=True, slots=True)
class ServerTime:
    """Gives the servers what the other steps have left of the time budget."""

    search: Search
    finalists: tuple[Candidate, ...]

    def __call__(self, plan: Plan, ended: Ended) -> Plan:
        """See `Growth.grow`."""
        search = self.search
        time = float(max(_SHORTEST, floor(Budget(search.total, ended).left)))
        step = server_benchmark_step(search.loaded, search.model, search.here, self.finalists, time)
        return replace(plan, steps=tuple(step if each.id == step.id else each for each in plan.steps))


def _put_together(plan: Plan, steps: Sequence[Step], tail: Sequence[Step], growth: Growth) -> Plan:
    kept = [step for step in plan.steps if not step.live and step.id not in _TAIL]
    live = [step for step in plan.steps if step.live]
    return replace(plan, steps=(*kept, *steps, *tail, *live), growths=(growth,))


def _like(step: str) -> tuple[str, ...]:
    """The beginnings of the ids of steps that take as long as this one, the nearest first."""
    kind, _, name = step.partition(".")
    return (
        step,
        f"{kind}.{name.partition('+')[0]}",
        f"{kind}.{name.partition(':')[0]}",
        f"{kind}.{name.partition('-')[0]}",
        f"{kind}.",
    )


def _compatible(leader: Candidate, changes: Sequence[Change], options_at_once: int | None = None) -> tuple[Change, ...]:
    """The changes that can be made together, an earlier one rather than a later one.

    Args:
        leader: that is changed.
        changes: of it.
        options_at_once: of each pass, at most so many; None for any number.
    """
    taken: list[Change] = []
    for change in changes:
        if change.subject in {each.subject for each in taken}:
            continue
        same_pass = [each for each in taken if change.of_pass is not None and each.of_pass == change.of_pass]
        if options_at_once is not None and len(same_pass) >= options_at_once:
            continue
        if changed_together(leader, (*taken, change)) is not None:
            taken.append(change)
    return tuple(taken)


def _failed_its_gates(verified: Succeeded | Failed | None) -> bool:
    return isinstance(verified, Succeeded) and not verified.read(Verdict).passed


def _tries_until_gates_hold(candidate: Candidate, planned: Collection[str]) -> bool:
    """Whether a pass that is still to be run looks at the gates."""
    variant = candidate.variant
    return any(
        made.options is not None and made.options.judged and step not in planned
        for step, made in zip(variant.steps[1:], variant.passes, strict=True)
    )


def _no_time(cost: float, spare: float, budget: Budget) -> SearchedParameters:
    return SearchedParameters(
        "not tried",
        f"it would have taken about {cost:.0f} s, and {max(0.0, spare):.0f} s of `optimize.time_budget` "
        f"({duration_text(budget.total)}) were left beside what the finalists need",
    )


def _new(entrants: Sequence[Entrant], standing: Standing) -> list[Entrant]:
    """The entrants that are not the same as one that was tried, or as another of them."""
    known = {each.identity for each in (*standing.tried, *standing.not_made)}
    found = []
    for entrant in entrants:
        if (identity := entrant.candidate.identity) not in known:
            known.add(identity)
            found.append(entrant)
    return found
