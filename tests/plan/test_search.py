"""How a search grows a plan, with made-up outcomes: no step runs, only receipts and documents are there."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.table import backend
from orchestrator.plan.expand import expand
from orchestrator.plan.steps.benchmark import AT_ONCE
from orchestrator.steps.parameters import (
    RuntimeBenchmarkParameters,
    SelectParameters,
    ServerBenchmarkParameters,
)
from tests.plan.search_world import BEGAN, World, by_options, fates, finalists, measured_in, rounds


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    def make(times: Callable[[str], float] | None = None, **settings: Any) -> World:
        return World(tmp_path / f"w{len(list(tmp_path.iterdir()))}", times or by_options(), **settings)

    return make


def test_without_a_search_nothing_changes(world: Callable[..., World]) -> None:
    plan = world().plan(search=False)
    assert not plan.growths
    assert rounds(plan) == []


def test_what_is_clearly_slower_is_dropped_with_its_figures(world: Callable[..., World]) -> None:
    made = world()
    plan = made.run()
    assert set(measured_in(plan, 1)) == {"onnx-fp32", "onnx-fp32@openvino"}
    assert all("openvino" not in name for name in measured_in(plan, 2)), "what is dominated is not searched"
    assert finalists(plan) == {"onnx-fp32"}
    fate, reason = fates(plan)["onnx-fp32@openvino"]
    assert fate == "dominated"
    assert reason == "it takes 10.00 times (10.00 to 10.00 over 20 turns) as long as onnx-fp32"


def test_the_best_of_a_backend_that_comes_near_is_searched_too(world: Callable[..., World]) -> None:
    plan = world(by_options(openvino=0.11)).run()
    assert {"onnx-fp32+threads=1", "onnx-fp32@openvino+threads=1"} <= set(measured_in(plan, 2))
    assert {"onnx-fp32", "onnx-fp32@openvino"} <= finalists(plan)


def test_one_thing_is_changed_at_a_time_and_what_does_not_help_is_not_combined(world: Callable[..., World]) -> None:
    plan = world(by_options(threads=0.8, graph_optimization=1.1)).run()
    changed = set(measured_in(plan, 2)) - {"onnx-fp32"}
    assert {"onnx-fp32+threads=1", "onnx-fp32+graph_optimization=extended"} <= changed
    assert not any(name.count("+") > 1 for name in changed)
    assert rounds(plan) == ["benchmark.round-1", "benchmark.round-2"], (
        "one change alone has nothing to be combined with"
    )
    assert finalists(plan) == {"onnx-fp32", "onnx-fp32+threads=1"}
    assert fates(plan)["onnx-fp32+graph_optimization=extended"] == (
        "did not help",
        "it takes 1.10 times (1.10 to 1.10 over 20 turns) as long as onnx-fp32",
    )


@pytest.mark.parametrize(("objective", "tried"), [("latency", False), ("throughput", True), ("cost", True)])
def test_instances_are_tried_where_many_requests_at_once_count(
    world: Callable[..., World], objective: str, tried: bool
) -> None:
    plan = world(objective=objective).run()
    assert ("onnx-fp32+instances=2" in measured_in(plan, 2)) is tried


def _helped(world: Callable[..., World], searches: int, **faster: float) -> list[set[str]]:
    """What is called helpful in so many searches that differ by chance alone: each turn of each candidate takes up to a tenth longer."""
    made = world(by_options(openvino=0.1, **faster), precisions="[int8]")
    plan = made.run(until="benchmark.round-2")
    step, before = plan.step("benchmark.round-2"), dict(made.outcomes)
    parents = {"onnx-int8", "onnx-int8@openvino"}
    changes = set(measured_in(plan, 2)) - parents
    assert len(changes) > 15
    found = []
    for search in range(searches):

        def turn(name: str, number: int, search: int = search) -> float:
            return random.Random(f"{search} {name} {number}").uniform(1, 1.1)

        made.turn = turn
        made.outcomes = {**before, step.id: made.outcome(step)}
        grown = expand(plan, made.outcomes, made.store.trees)
        not_helpful = {name for name, (fate, _) in fates(grown).items() if fate == "did not help"}
        found.append(changes - not_helpful)
    return found


def test_of_a_hundred_searches_in_which_nothing_helps_at_most_five_call_a_change_helpful(
    world: Callable[..., World],
) -> None:
    assert sum(map(bool, _helped(world, 100))) <= 5


def test_what_takes_a_twentieth_less_is_found_among_what_does_not(world: Callable[..., World]) -> None:
    helped = _helped(world, 50, arena=0.95)
    assert sum(any("arena" in name for name in names) for names in helped) >= 43


def test_what_is_faster_by_less_than_chance_among_so_many_is_told_so(world: Callable[..., World]) -> None:
    def turn(name: str, number: int) -> float:
        return 0.9 if "arena" in name and number >= 5 else 1.0

    plan = world(precisions="[fp32, int8]", turn=turn).run()
    fate, reason = fates(plan)["onnx-fp32+memory_arena=false"]
    assert fate == "did not help"
    assert re.search(r"0.90 times .* as long as onnx-fp32, which may be chance: the round had \d+ changes", reason)


def test_what_helps_is_combined_and_the_best_goes_on(world: Callable[..., World]) -> None:
    plan = world(by_options(threads=0.8, graph_optimization=0.9)).run()
    both = "onnx-fp32+graph_optimization=extended+threads=1"
    assert measured_in(plan, 3) == ["onnx-fp32", "onnx-fp32+threads=1", both]
    assert finalists(plan) == {"onnx-fp32", both}
    dropped = fates(plan)
    assert dropped["onnx-fp32+threads=1"][0] == "dominated"
    assert f"but {both} helps onnx-fp32 more: it takes 1.11 times" in dropped["onnx-fp32+threads=1"][1]


def test_a_combination_that_is_worse_than_one_change_loses_to_it(world: Callable[..., World]) -> None:
    def times(name: str) -> float:
        worse = 1.5 if "threads" in name and "graph" in name else 1.0
        return worse * by_options(threads=0.8, graph_optimization=0.9)(name)

    plan = world(times).run()
    assert finalists(plan) == {"onnx-fp32", "onnx-fp32+threads=1"}
    assert fates(plan)["onnx-fp32+graph_optimization=extended+threads=1"][0] == "did not help"


def test_an_option_of_the_runtime_is_verified_once_it_has_helped(world: Callable[..., World]) -> None:
    made = world(by_options(threads=0.8))
    made.run()
    order = made.ran
    assert order.index("verify.onnx-fp32+threads=1") > order.index("benchmark.round-2")
    assert "verify.onnx-fp32+graph_optimization=extended" not in order
    assert order.index("verify.onnx-fp32+threads=1") < order.index("benchmark.runtime")


def test_another_variant_is_verified_before_it_is_measured(world: Callable[..., World]) -> None:
    made = world(by_options(int8=0.3), precisions="[fp32, int8]")
    plan = made.run()
    other = [name for name in measured_in(plan, 2) if name.startswith("onnx-int8:")]
    assert other, "the leader's pass has options that are worth trying"
    for name in other:
        assert made.ran.index(f"verify.{name}") < made.ran.index("benchmark.round-2")


def test_options_are_tried_for_a_precision_that_failed_its_gates(world: Callable[..., World]) -> None:
    failing = frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"})
    plan = world(by_options(int8=0.3), precisions="[fp32, int8]", failing=failing).run()
    other = [name for name in measured_in(plan, 2) if name.startswith("onnx-int8:") and "+" not in name]
    assert other
    assert finalists(plan) & set(other), "one that holds the gates and is faster wins over fp32"


@pytest.mark.parametrize("precisions", ["[int8]", "[fp32, int8]"])
def test_what_failed_its_gates_is_mended_whatever_else_leads(world: Callable[..., World], precisions: str) -> None:
    """Nothing leads where int8 is all that is asked for; and TorchScript, which leads in fp32, has no int8 to mend."""
    failing = frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"})
    times = by_options(torchscript=0.1, auto=0.05)
    plan = world(times, formats="[onnx, torchscript]", precisions=precisions, failing=failing).run()
    assert "onnx-int8:exclude=auto" in measured_in(plan, 1)
    assert "onnx-int8:exclude=auto" in finalists(plan)
    assert "onnx-int8:exclude=auto+threads=1" in measured_in(plan, 2), "it leads, so it is varied"
    assert "onnx-int8:exclude=auto-ort" in measured_in(plan, 2), "with a pass as with an option"


def test_a_mix_that_is_slower_than_what_passed_does_not_go_on(world: Callable[..., World]) -> None:
    failing = frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"})
    plan = world(by_options(auto=1.5), precisions="[fp32, int8]", failing=failing).run()
    assert finalists(plan) == {"onnx-fp32"}
    assert fates(plan)["onnx-int8:exclude=auto"][0] == "dominated"


@pytest.mark.parametrize("at", ["", "@openvino"])
def test_layers_are_left_out_on_the_backend_whose_gates_failed(world: Callable[..., World], at: str) -> None:
    """Where the others hold them in int8, a pass that looks at the gates there would change nothing."""
    plan = world(precisions="[fp32, int8]", failing=frozenset({f"verify.onnx-int8{at}"})).run()
    mended = [name for name in measured_in(plan, 1) if "exclude" in name]
    assert mended == [f"onnx-int8:exclude=auto{at}"]
    step = plan.step("optimize.onnx-int8:exclude=auto")
    runtime = backend("openvino" if at else "onnxruntime").runtimes["onnx"]
    assert step.params["judged_in"] == [runtime.function]
    assert set(runtime.tools) <= set(step.tools)


def test_what_failed_on_two_backends_is_judged_on_both(world: Callable[..., World]) -> None:
    failing = frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"})
    plan = world(precisions="[fp32, int8]", failing=failing).run()
    assert len(plan.step("optimize.onnx-int8:exclude=auto").params["judged_in"]) == 2


def test_a_precision_that_did_not_help_is_not_varied(world: Callable[..., World]) -> None:
    plan = world(by_options(int8=1.1), precisions="[fp32, int8]").run()
    assert not [name for name in measured_in(plan, 2) if name.startswith("onnx-int8")]


@pytest.mark.parametrize("seconds", [0.5, 2.0, 8.0, 20.0])
@pytest.mark.parametrize("budget", [60, 120, 300])
def test_the_time_budget_is_kept(world: Callable[..., World], budget: int, seconds: float) -> None:
    """Unless what the spec asks for takes as long by itself: then nothing is searched."""
    took = {"benchmark.round": 3 * seconds, "": seconds}
    made = world(
        by_options(int8=0.3, threads=0.8, graph=0.9), budget=f"{budget}s", precisions="[fp32, int8]", seconds=took
    )
    plan = made.run(until="benchmark.runtime")
    spent = (made.clock - BEGAN).total_seconds()
    runtime = RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params).time_budget
    plain = 7 * seconds  # import, convert, optimize, and four times verify
    if not rounds(plan):
        assert plain > 0.5 * budget
        notes = SelectParameters.from_json(plan.step("select").params).search_notes
        assert re.match(r"the search did not begin: .* took \d+ s of [12345]m; raise `optimize.time_budget`", notes[0])
    assert spent + runtime <= max(1.1 * budget, plain + 12)
    made.seconds = {"benchmark.runtime": runtime}
    plan = made.run(plan, until="benchmark.server")
    server = ServerBenchmarkParameters.from_json(plan.step("benchmark.server").params).time_budget
    assert (made.clock - BEGAN).total_seconds() + server <= max(1.1 * budget, plain + 2 * 12)


@pytest.mark.parametrize("budget", [300, 1200])
def test_a_pass_that_does_not_end_leaves_the_finalists_their_time(world: Callable[..., World], budget: int) -> None:
    """Leaving out layers until the gates hold takes many times as long as the plain pass, which the estimate is of."""
    made = world(
        budget=f"{budget}s",
        precisions="[fp32, int8]",
        failing=frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"}),
        stuck=frozenset({"optimize.onnx-int8:exclude=auto"}),
    )
    plan = made.run(until="benchmark.runtime")
    assert "optimize.onnx-int8:exclude=auto" in made.ran
    runtime = RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params).time_budget
    spent = (made.clock - BEGAN).total_seconds()
    assert spent <= 0.65 * budget
    assert spent + runtime <= budget
    made.seconds = {"benchmark.runtime": runtime}
    plan = made.run(plan, until="benchmark.server")
    server = ServerBenchmarkParameters.from_json(plan.step("benchmark.server").params).time_budget
    assert (made.clock - BEGAN).total_seconds() + server <= 1.1 * budget


def test_a_pass_that_tries_until_the_gates_hold_has_a_time_of_its_own(world: Callable[..., World]) -> None:
    failing = frozenset({"verify.onnx-int8", "verify.onnx-int8@openvino"})
    plan = world(precisions="[fp32, int8]", failing=failing).run()
    step = plan.step("optimize.onnx-int8:exclude=auto")
    assert step.params["time_budget"] == 240.0, "less than a quarter of 20 minutes, after which it would be stopped"
    assert step.timeout == 300.0
    assert plan.step("optimize.onnx-int8").params["time_budget"] is None

    took = {"optimize.": 30.0, "benchmark.round": 20.0, "": 1.0}
    plan = world(precisions="[fp32, int8]", failing=failing, budget="2m", seconds=took).run()
    fate, reason = fates(plan)["onnx-int8:exclude=auto"]
    assert fate == "not tried"
    assert "would have taken about" in reason, "not what the pass takes without it"


def test_many_changes_leave_time_for_the_first_of_them(world: Callable[..., World]) -> None:
    """What the changes are compared with is measured again for every eight, but only for those that are tried."""
    took = {"verify.": 1.0, "optimize.": 1.0, "benchmark.round": 30.0}
    plan = world(by_options(openvino=0.11), budget="380s", precisions="[int8]", seconds=took).run()
    assert rounds(plan) == ["benchmark.round-1", "benchmark.round-2"]
    assert 2 < len(measured_in(plan, 2)) <= 2 + AT_ONCE, "the two that lead, and some changes"
    assert [fate for fate, _ in fates(plan).values()].count("not tried") > AT_ONCE


def test_what_there_is_no_time_for_is_told(world: Callable[..., World]) -> None:
    took = {"verify.": 6.0, "benchmark.round": 20.0}
    plan = world(budget="2m", precisions="[fp32, int8]", seconds=took).run()
    told = [reason for fate, reason in fates(plan).values() if fate == "not tried"]
    assert told
    assert all(
        re.match(r"it would have taken about \d+ s, and \d+ s of `optimize.time_budget` \(2m\) were left", each)
        for each in told
    )
    tried = {each.candidate for each in SelectParameters.from_json(plan.step("select").params).candidates}
    assert fates(plan).keys() <= tried, "the decision has a row for each"


@pytest.mark.parametrize("until", ["benchmark.round-1", "benchmark.round-2", "benchmark.round-3", "benchmark.runtime"])
def test_a_search_that_was_killed_goes_on_where_it_was(world: Callable[..., World], until: str) -> None:
    made = world(by_options(threads=0.8, graph=0.9))
    whole, ran = made.run(), list(made.ran)
    made.outcomes = {name: made.outcomes[name] for name in ran[: ran.index(until)]}
    made.clock += timedelta(hours=1)
    made.ran.clear()
    plan = made.run(made.plan())
    assert made.ran == ran[ran.index(until) :], "nothing that had ended is run again"
    assert finalists(plan) == finalists(whole)
    assert fates(plan) == fates(whole)


def test_a_plan_grows_by_outcomes_alone(world: Callable[..., World]) -> None:
    made = world(by_options(threads=0.8, graph=0.9))
    whole = made.run()
    assert expand(made.plan(), made.outcomes, made.store.trees) == whole
    assert expand(made.plan(), dict(reversed(made.outcomes.items())), made.store.trees) == whole, "in whatever order"


def test_time_between_two_runs_does_not_count(world: Callable[..., World]) -> None:
    def runtime(pause: timedelta) -> float:
        made = world()
        plan = made.run(until="benchmark.round-2")
        made.clock += pause
        plan = made.run(plan)
        return RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params).time_budget

    assert runtime(timedelta(days=3)) == pytest.approx(runtime(timedelta()), abs=1.0)


def test_nothing_that_passed_is_measured_as_without_a_search(world: Callable[..., World]) -> None:
    made = world(failing=frozenset({"verify.onnx-fp32", "verify.onnx-fp32@openvino"}))
    plan = made.run()
    assert finalists(plan) == {"onnx-fp32", "onnx-fp32@openvino"}
    assert fates(plan) == {}


def test_a_conversion_that_fails_leaves_the_others(world: Callable[..., World]) -> None:
    made = world(by_options(int8=0.3), precisions="[fp32, int8]", broken=frozenset({"optimize.onnx-int8"}))
    plan = made.run()
    assert finalists(plan) == {"onnx-fp32"}


def test_options_of_one_pass_that_do_not_go_together_leave_the_most_helpful(world: Callable[..., World]) -> None:
    """Only making them together shows that they exclude each other."""
    together = "onnx-int8:per-channel=false:types=u8u8"
    made = world(
        by_options(int8=0.3, channel=0.8, types=0.7, threads=0.9),
        precisions="[int8]",
        broken=frozenset({f"optimize.{together}"}),
    )
    plan = made.run()
    most = "onnx-int8:types=u8u8+threads=1"
    assert {f"{together}+threads=1", most} <= set(measured_in(plan, 3))
    assert most in finalists(plan)


def test_a_change_that_cannot_be_made_with_more_helpful_ones_is_left_out(world: Callable[..., World]) -> None:
    """An int4 that helps and an int8 that helps are two precisions; the rest of the combination is tried."""
    failing = frozenset(f"verify.onnx-{name}{at}" for name in ("int8", "int4") for at in ("", "@openvino"))
    made = world(
        by_options(auto=1.5, block=1.5, activations=0.5, types=0.8, threads=0.9),
        precisions="[fp32, int8, int4]",
        failing=failing,
    )
    plan = made.run()
    assert "onnx-int4:activations=int8+threads=1" in measured_in(plan, 3)
