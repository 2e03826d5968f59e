"""How the sweep shares its time: which turns it takes and what it leaves out, on a clock that only its calls move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from orchestrator.artifacts.measurement import Objective
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.artifacts.runtime_report import PairedTimes, RuntimeMeasurement
from orchestrator.measure import sweep as sweeping
from orchestrator.measure.runtime_candidates import RuntimeCandidate
from orchestrator.measure.runtime_report import runtime_result
from orchestrator.measure.sweep import Measurement, SweepSettings

Settings = Callable[..., SweepSettings]
Sleeper = Callable[..., RuntimeCandidate]
Run = Callable[[list[RuntimeCandidate], SweepSettings], dict[str, Measurement]]


class Machine:
    """A clock and the calls made so far, as `name` of the candidate."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def process(self, module: str, share: object, *, memory: int, folder: Path) -> Process:
        return Process(self)


class Process:
    """Stands in for `MeasuredProcess` with the stand-in `SleepingRuntime`: it answers at once, and moves the clock."""

    peak = 2**26

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._behaviour: Mapping[str, Any] = {}

    def ask(self, command: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if command["do"] == "open":
            self._behaviour = command["arguments"]["behaviour"]
            self._machine.now += 0.2
            return {"seconds": 0.1, "facts": RuntimeFacts("asleep", {}, 1).as_json()}
        call = self._behaviour.get("seconds", 0.0) + command["rows"] * self._behaviour.get("per_row", 0.0)
        taken = 1 if command["seconds"] <= 0 else min(command["calls"], int(command["seconds"] / call) + 1)
        made = command["untimed"] + taken
        self._machine.calls += [self._behaviour["name"]] * made
        self._machine.now += made * call
        return {"seconds": [call] * taken}

    def close(self) -> None:
        """Nothing runs."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(sweeping, "MeasuredProcess", machine.process)
    monkeypatch.setattr(sweeping, "time", SimpleNamespace(monotonic=lambda: machine.now))
    return machine


@pytest.fixture
def run(machine: Machine, tmp_path: Path) -> Run:
    def run(candidates: list[RuntimeCandidate], settings: SweepSettings) -> dict[str, Measurement]:
        measured = sweeping.sweep(candidates, settings, tmp_path, lambda *_: None)
        assert machine.now <= settings.time_budget, "the budget is kept"
        return {each.name: each for each in measured}

    return run


def numbers(measured: Measurement, baseline: Measurement | None = None) -> RuntimeMeasurement:
    found = runtime_result(measured, baseline).measured
    assert found is not None
    return found


def compared(report: RuntimeMeasurement, objective: Objective) -> PairedTimes:
    assert report.against_baseline is not None
    found = report.against_baseline.for_objective(objective)
    assert found is not None
    return found


def test_rounds_take_turns_and_rotate(sleeper: Sleeper, settings: Settings, run: Run, machine: Machine) -> None:
    names = ["a", "b", "c"]
    candidates = [sleeper(name, seconds=0.002) for name in names]
    run(candidates, settings(batch_sizes=(1,), measuring=0.1, warming=0.05))
    turns = [name for name, _ in groupby(machine.calls)]
    # Each is warmed up once; then six rounds, each with every candidate once and another one first. Where a round ends with
    # the one that the next begins with, two turns read as one, which does not happen when the order rotates by one.
    assert turns[:3] == names
    rounds = turns[3:]
    assert "".join(rounds) == "abcbcacababcbcacab"


def test_clearly_dominated_candidates_are_dropped_with_a_reason(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    candidates = [
        sleeper("baseline", backend="", seconds=0.02),
        sleeper("fast", seconds=0.002),
        sleeper("slow", seconds=0.012),
        sleeper("elsewhere", backend="torchserve", seconds=0.012),
    ]
    found = run(candidates, settings())
    assert found["slow"].fate == "dominated"
    assert "dropped after 2 rounds" in found["slow"].reason
    assert "times as long as fast at every batch size" in found["slow"].reason
    assert [len(found[name].samples[1]) for name in ("baseline", "fast", "slow", "elsewhere")] == [6, 6, 2, 6]


def test_a_slower_one_that_wins_at_one_batch_size_stays(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    candidates = [sleeper("steep", seconds=0.001, per_row=0.004), sleeper("flat", seconds=0.012)]
    found = run(candidates, settings())
    assert {measured.fate for measured in found.values()} == {"measured"}


def test_the_time_budget_ends_the_rounds(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    found = run([sleeper("slow", seconds=0.2)], settings(time_budget=1.5, rounds=50, warming=0.1))
    assert found["slow"].fate == "measured"
    assert 1 <= len(found["slow"].samples[1]) < 10


@pytest.mark.parametrize("largest", [64, 24], ids=["a call is too long", "a round is too long"])
def test_large_batches_make_room_for_the_rounds_that_a_decision_takes(
    sleeper: Sleeper, settings: Settings, run: Run, largest: int
) -> None:
    candidates = [sleeper("baseline", backend="", per_row=0.02), sleeper("other", per_row=0.015)]
    sizes = settings(batch_sizes=(1, 4, 16, largest), time_budget=8.0, measuring=0.1, warming=0.1)
    found = run(candidates, sizes)
    for measured in found.values():
        report = numbers(measured, found["baseline"])
        assert compared(report, "latency").rounds == 6
        assert report.largest_batch < largest
        assert "would have left no time for 6 rounds" in report.limited_by


def test_rounds_are_shorter_where_there_is_little_time_for_them(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    candidates = [sleeper(name, backend=name, seconds=0.001) for name in ("baseline", "a", "b", "c")]
    # With rounds of a second, as where there is time, there would not be six.
    found = run(candidates, settings(batch_sizes=(1,), time_budget=6.0, measuring=12.0, rounds=12))
    assert compared(numbers(found["c"], found["baseline"]), "latency").rounds >= 6


def test_the_baseline_is_compared_round_by_round(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    candidates = [sleeper("baseline", backend="", seconds=0.01), sleeper("fast", seconds=0.002, per_row=0.001)]
    found = run(candidates, settings())
    report = numbers(found["fast"], found["baseline"])
    latency, throughput = compared(report, "latency"), compared(report, "throughput")
    assert (latency.rows, latency.rounds) == (1, 6)
    assert latency.faster
    assert 0.1 < latency.ratio < 0.7
    assert (throughput.rows, throughput.baseline_rows) == (4, 4)


def test_what_cannot_be_loaded_in_time_is_not_measured(sleeper: Sleeper, settings: Settings, run: Run) -> None:
    candidates = [sleeper(f"c{number}", seconds=0.002) for number in range(20)]
    found = run(candidates, settings(batch_sizes=(1,), time_budget=4.0, warming=0.1, loading=0.75))
    fates = [found[each.name].fate for each in candidates]
    loaded = fates.count("measured")
    assert 2 < loaded < 20
    assert fates == ["measured"] * loaded + ["not measured"] * (20 - loaded)
    assert found["c19"].reason == "there was no time to load it"
    assert all(len(found[each.name].samples[1]) == 6 for each in candidates[:loaded]), "turns are left for the others"


def test_two_are_loaded_however_late_it_is(
    sleeper: Sleeper, settings: Settings, machine: Machine, tmp_path: Path
) -> None:
    candidates = [sleeper(name, seconds=0.002) for name in ("a", "b", "c")]
    late = settings(batch_sizes=(1,), time_budget=0.1, loading=0.75)
    found = sweeping.sweep(candidates, late, tmp_path, lambda *_: None)
    assert [(each.fate, len(each.samples)) for each in found] == [("measured", 1), ("measured", 1), ("not measured", 0)]
