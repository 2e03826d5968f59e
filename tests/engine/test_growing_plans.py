"""Plans that grow while they run: rounds of a made-up search, with caching, early stops, interrupts and previews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from orchestrator.artifacts.verdict import Verdict
from orchestrator.engine.preview import preview
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import Interrupted
from orchestrator.events import Event, StepStarted
from orchestrator.plan.expand import expand
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.step import Failed, Growth, Plan, StepOutput, Succeeded
from orchestrator.release.live import Live
from tests.engine.conftest import Project
from tests.engine.steps_under_test import Length

Ended = Mapping[str, Succeeded | Failed]

pytestmark = pytest.mark.processes

ROUNDS = ["round-1", "round-2", "round-3"]


@dataclass(frozen=True)
class Search:
    """Writes longer and longer texts, a round after the other, until one is long enough; `last` gathers all of them."""

    project: Project
    round: int = 1
    enough: int = 3

    def __call__(self, plan: Plan, ended: Ended) -> Plan:
        if length_of(ended[f"round-{self.round}"]) >= self.enough:
            return plan  # an early stop
        number = self.round + 1
        step = replace(self.project.write_step("x" * number), id=f"round-{number}")
        last = plan.step("last")
        last = replace(last, inputs={**last.inputs, step.id: StepOutput(step.id)})
        others = tuple(each for each in plan.steps if each.id != "last")
        growth = Growth((step.id,), "another round of the search", replace(self, round=number))
        return replace(plan, steps=(*others, step, last), growths=(growth,))

    def plan(self) -> Plan:
        first = replace(self.project.write_step("x"), id="round-1")
        last = self.project.step("last", "join", inputs={"round-1": StepOutput("round-1")})
        plan = self.project.plan(first, last)
        return replace(plan, growths=(Growth(("round-1",), "another round of the search", self),))


@dataclass(frozen=True)
class Repair:
    """Tries a longer text where the verdict on the first one is bad, or where the first one could not be made."""

    project: Project
    first: str
    seen: list[str]

    def __call__(self, plan: Plan, ended: Ended) -> Plan:
        made, judged = ended["made"], ended["judged"]
        if isinstance(made, Failed):
            self.seen.append(f"not made: {made.error.code}")
        elif isinstance(judged, Failed):
            self.seen.append(f"not judged: {judged.error.code}")
        elif judged.read(Verdict).passed:
            return plan
        else:
            self.seen.append("bad verdict")
        step = replace(self.project.write_step("longer"), id="second")
        last = plan.step("last")
        last = replace(last, inputs={**last.inputs, "second": StepOutput("second")})
        return replace(plan, steps=(*plan.steps[:-1], step, last))

    def plan(self) -> Plan:
        made = self.project.write_step("xx"[: len(self.first)], candidate="first")
        if not self.first:
            made = self.project.step("made", "refuse", candidate="first")
        judged = self.project.step("judged", "judge", inputs={"text": StepOutput("made")}, candidate="first")
        last = self.project.step("last", "join", inputs={"made": StepOutput("made")}, optional=frozenset({"made"}))
        plan = self.project.plan(replace(made, id="made"), judged, last)
        return replace(plan, growths=(Growth(("made", "judged"), "another try", self),))


def length_of(ended: Succeeded | Failed) -> int:
    assert isinstance(ended, Succeeded)
    return ended.read(Length).length


def run(project: Project, plan: Plan, stop: Stop | None = None, observer: Any = None) -> dict[str, Outcome]:
    store = project.store
    resolver = Resolver(project.loaded, plan, store)
    stop = stop or Stop()
    return run_plan(
        project.loaded, plan, resolver, store, observer=observer or project.events.append, stop=stop, jobs=2
    )


def test_a_search_runs_as_many_rounds_as_its_results_require(project: Project) -> None:
    outcomes = run(project, Search(project).plan())
    assert sorted(outcomes) == ["last", *ROUNDS]
    assert project.text(outcomes, "last") == "x+xx+xxx"


def test_a_search_stops_early_after_a_round_that_was_good_enough(project: Project) -> None:
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


def test_a_plan_grows_depending_on_outcomes_only(project: Project) -> None:
    plan, trees = Search(project).plan(), project.store.trees
    outcomes = run(project, plan)
    grown = expand(plan, outcomes, trees)
    assert [step.id for step in grown.steps] == [*ROUNDS, "last"]
    assert expand(plan, dict(reversed(outcomes.items())), trees) == grown, "in whatever order they ended"
    assert expand(expand(plan, {"round-1": outcomes["round-1"]}, trees), outcomes, trees) == grown, "or at once"
    assert expand(plan, {}, trees) is plan


@pytest.mark.parametrize(
    ("first", "seen", "text"),
    [
        ("xx", [], "xx"),
        ("x", ["bad verdict"], "x+longer"),
        ("", ["not made: E499"], "longer"),
    ],
)
def test_a_search_reacts_to_what_failed_its_gates_or_was_not_made(
    project: Project, first: str, seen: list[str], text: str
) -> None:
    repair = Repair(project, first, [])
    outcomes = run(project, repair.plan())
    assert repair.seen == seen
    assert project.text(outcomes, "last") == text


def test_a_refusal_lets_the_next_run_grow_to_the_same_plan_without_running_it_again(project: Project) -> None:
    plan = Repair(project, "", []).plan()
    outcomes = run(project, plan)
    project.events.clear()
    again = run(project, plan)
    assert expand(plan, again, project.store.trees) == expand(plan, outcomes, project.store.trees)
    assert [event for event in project.events if isinstance(event, StepStarted)] == []


def test_a_growth_waits_for_all_its_steps_and_sees_only_those_and_what_they_need(project: Project) -> None:
    seen: list[list[str]] = []

    def note(plan: Plan, ended: Ended) -> Plan:
        seen.append(list(ended))
        return plan

    texts = [replace(project.write_step(name), id=name) for name in ("a", "b", "c")]
    last = project.step("last", "join", inputs={name: StepOutput(name) for name in ("a", "b", "c")})
    judged = project.step("judged", "judge", inputs={"text": StepOutput("a")})
    plan = replace(project.plan(*texts, judged, last), growths=(Growth(("judged", "b"), "nothing", note),))
    outcomes, trees = run(project, plan), project.store.trees
    assert seen == [["a", "b", "judged"]]
    assert expand(plan, {name: outcomes[name] for name in ("a", "b", "c")}, trees) is plan, "it waits for `judged`"


def test_a_plan_does_not_grow_after_a_stopped_step(project: Project) -> None:
    repair, stop = Repair(project, "x", []), Stop()
    plan = repair.plan()
    hang = replace(
        plan.step("judged"), function="steps_under_test:hang_alone", params={"pids": f"{project.folder}/pids"}
    )
    plan = replace(plan, steps=tuple(hang if step.id == "judged" else step for step in plan.steps))

    def kill(event: Event) -> None:
        if isinstance(event, StepStarted) and event.step == "judged":
            stop.ask()
            stop.ask()

    with pytest.raises(Interrupted):
        run(project, plan, stop, kill)
    assert repair.seen == []


def test_a_growth_cannot_wait_for_a_step_that_is_not_there(project: Project) -> None:
    plan = replace(Search(project).plan(), growths=(Growth(("round-7",), "trouble", Search(project)),))
    with pytest.raises(ValueError, match="waits for round-7, which is no step of the plan"):
        expand(plan, {}, project.store.trees)


def test_a_growth_may_not_change_what_does_not_come_after_it(project: Project) -> None:
    plan = Search(project).plan()
    outcomes = run(project, plan)

    def meddle(plan: Plan, _: Ended) -> Plan:
        return replace(plan, steps=tuple(replace(step, revision=9) for step in plan.steps))

    def repeat(plan: Plan, _: Ended) -> Plan:
        return replace(plan, steps=(*plan.steps, plan.step("last")))

    with pytest.raises(ValueError, match="changes round-1, which does not come after it"):
        expand(replace(plan, growths=(Growth(("round-1",), "trouble", meddle),)), outcomes, project.store.trees)
    with pytest.raises(ValueError, match="leaves two steps with the id last"):
        expand(replace(plan, growths=(Growth(("round-1",), "trouble", repeat),)), outcomes, project.store.trees)


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
