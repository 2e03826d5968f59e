"""Plans that grow while they run: rounds of a made-up search, with caching, early stops, interrupts and previews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.engine.preview import preview
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import Interrupted
from orchestrator.events import Event, StepStarted
from orchestrator.plan.expand import expand
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.step import Growth, Plan, StepOutput
from orchestrator.release.live import Live
from tests.engine.conftest import Project

pytestmark = pytest.mark.processes

ROUNDS = ["round-1", "round-2", "round-3"]


@dataclass(frozen=True)
class Search:
    """Writes longer and longer texts, a round after the other, until one is long enough; `last` gathers all of them."""

    project: Project
    round: int = 1
    enough: int = 3

    def __call__(self, plan: Plan, summary: Mapping[str, Any]) -> Plan:
        if summary["length"] >= self.enough:
            return plan  # an early stop
        number = self.round + 1
        step = replace(self.project.write_step("x" * number), id=f"round-{number}")
        last = plan.step("last")
        last = replace(last, inputs={**last.inputs, step.id: StepOutput(step.id)})
        others = tuple(each for each in plan.steps if each.id != "last")
        growth = Growth(step.id, "another round of the search", replace(self, round=number))
        return replace(plan, steps=(*others, step, last), growths=(growth,))

    def plan(self) -> Plan:
        first = replace(self.project.write_step("x"), id="round-1")
        last = self.project.step("last", "join", inputs={"round-1": StepOutput("round-1")})
        plan = self.project.plan(first, last)
        return replace(plan, growths=(Growth("round-1", "another round of the search", self),))


def run(project: Project, plan: Plan, stop: Stop | None = None, observer: Any = None) -> dict[str, Outcome]:
    store = project.store
    resolver = Resolver(project.loaded, plan, store)
    stop = stop or Stop()
    return run_plan(
        project.loaded, plan, resolver, store, observer=observer or project.events.append, stop=stop, jobs=2
    )


def test_a_search_goes_on_for_as_many_rounds_as_its_results_ask_for(project: Project) -> None:
    outcomes = run(project, Search(project).plan())
    assert sorted(outcomes) == ["last", *ROUNDS]
    assert project.text(outcomes, "last") == "x+xx+xxx"


def test_it_stops_early_where_a_round_was_good_enough(project: Project) -> None:
    outcomes = run(project, Search(project, enough=2).plan())
    assert project.text(outcomes, "last") == "x+xx"


def test_a_second_run_expands_to_the_same_plan_and_finds_everything(project: Project) -> None:
    plan = Search(project).plan()
    first = run(project, plan)
    assert project.runs() == 3
    again = run(project, plan)
    assert project.runs() == 3
    assert {name: outcome.receipt and outcome.receipt.key for name, outcome in again.items()} == {
        name: outcome.receipt and outcome.receipt.key for name, outcome in first.items()
    }


def test_a_run_that_is_killed_in_a_round_goes_on_in_that_round(project: Project) -> None:
    plan, stop = Search(project).plan(), Stop()

    def kill(event: Event) -> None:
        if isinstance(event, StepStarted) and event.step == "round-3":
            stop.ask()
            stop.ask()

    with pytest.raises(Interrupted):
        run(project, plan, stop, kill)
    before = project.runs()
    outcomes = run(project, plan)
    assert project.text(outcomes, "last") == "x+xx+xxx"
    assert project.runs() <= before + 1, "the rounds that had ended were not computed again"


def test_what_a_plan_grows_to_follows_from_outcomes_alone(project: Project) -> None:
    plan = Search(project).plan()
    outcomes = run(project, plan)
    grown = expand(plan, outcomes)
    assert [step.id for step in grown.steps] == [*ROUNDS, "last"]
    assert expand(plan, dict(reversed(outcomes.items()))) == grown, "in whatever order they ended"
    assert expand(expand(plan, {"round-1": outcomes["round-1"]}), outcomes) == grown, "or at once"
    assert expand(plan, {}) is plan


def test_a_growth_may_not_change_what_does_not_come_after_it(project: Project) -> None:
    plan = Search(project).plan()
    outcomes = run(project, plan)

    def meddle(plan: Plan, _: Mapping[str, Any]) -> Plan:
        return replace(plan, steps=tuple(replace(step, revision=9) for step in plan.steps))

    with pytest.raises(ValueError, match="changes round-1, which does not come after it"):
        expand(replace(plan, growths=(Growth("round-1", "trouble", meddle),)), outcomes)


def test_a_preview_says_what_will_be_known_only_after_a_run(project: Project) -> None:
    def lines() -> dict[str, tuple[str, str]]:
        plan = Search(project).plan()
        shown = preview(plan, Resolver(project.loaded, plan, project.store), Live(None, None))
        return {line.id: (line.status, line.reason) for line in shown.steps}

    before = lines()
    assert before["after round-1"] == (
        "known after run",
        "another round of the search, once round-1 has ended",
    )
    run(project, Search(project).plan())
    after = lines()
    assert list(after) == [*ROUNDS, "last"]
    assert {status for status, _ in after.values()} == {"cached"}
