"""The sweep over runtimes in real processes, with stand-ins that sleep a known time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.artifacts.runtime_report import RuntimeMeasurement
from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.runtime_candidates import RuntimeCandidate
from orchestrator.measure.runtime_report import runtime_result
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.sweep import Measurement, SweepSettings, sweep
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError

pytestmark = pytest.mark.processes

Settings = Callable[..., SweepSettings]
Sleeper = Callable[..., RuntimeCandidate]


def _silent(message: str, fraction: float | None = None) -> None:
    """Nobody watches."""


def numbers(measured: Measurement, baseline: Measurement | None = None) -> RuntimeMeasurement:
    found = runtime_result(measured, baseline).measured
    assert found is not None
    return found


def _run(candidates: list[RuntimeCandidate], settings: SweepSettings, scratch: Path) -> dict[str, Measurement]:
    return {measured.name: measured for measured in sweep(candidates, settings, scratch, _silent)}


def test_several_instances_are_called_at_once(sleeper: Sleeper, settings: Settings, tmp_path: Path) -> None:
    two = replace(sleeper("two", seconds=0.1), instances=2)
    found = numbers(_run([two], settings(batch_sizes=(4,)), tmp_path)["two"]).batches[0]
    assert 0.1 <= found.p50 < 0.19, "one after the other, they would take 0.2 s"
    assert found.rows_per_second == pytest.approx(2 * 4 / found.mean)


@pytest.mark.alone
def test_measured_times_are_those_slept(sleeper: Sleeper, settings: Settings, tmp_path: Path) -> None:
    one = sleeper("one", seconds=0.004, per_row=0.001, load=0.1, first_call=0.05)
    measured = _run([one], settings(), tmp_path)["one"]
    assert measured.fate == "measured"
    report = numbers(measured)
    assert report.load_seconds >= 0.1
    assert report.first_inference_seconds >= 0.055
    first, second = report.batches
    assert (first.rows, second.rows, first.rounds) == (1, 4, 6)
    assert 0.005 <= first.p50 < 0.02
    assert 0.008 <= second.p50 < 0.03
    assert first.p50 <= first.p90 <= first.p99 <= first.max
    assert second.rows_per_second == pytest.approx(4 / second.mean)
    assert first.without_warm_up is not None
    assert first.without_warm_up.first > first.p50
    assert second.without_warm_up is None, "its process was warm already"
    assert report.peak_rss > 2**20


@pytest.mark.alone
def test_the_first_candidate_is_not_charged_for_reading_files_from_disk(
    sleeper: Sleeper, settings: Settings, tmp_path: Path
) -> None:
    marker = str(tmp_path / "in the page cache")
    candidates = [sleeper("baseline", backend="", slow_once=marker), sleeper("other", slow_once=marker)]
    found = _run(candidates, settings(batch_sizes=(1,), measuring=0.05, warming=0.05), tmp_path)
    assert all(measured.load_seconds is not None and measured.load_seconds < 0.4 for measured in found.values())


def test_a_model_that_writes_into_its_inputs_is_measured_on_the_same_values_each_time(
    settings: Settings, signature: Signature, tmp_path: Path
) -> None:
    arguments = {"behaviour": {}, "signature": signature.as_json()}
    writing = RuntimeCandidate("writing", "", "fake_runtime:open_writing", arguments)

    (measured,) = sweep([writing], settings(measuring=0.05, warming=0.05), tmp_path, _silent)

    assert (measured.fate, measured.reason) == ("measured", "")


def test_a_candidate_that_runs_larger_batches_is_not_dominated(
    sleeper: Sleeper, settings: Settings, tmp_path: Path
) -> None:
    candidates = [
        sleeper("hungry", seconds=0.002, takes_memory_from=4, mebibytes=400),
        sleeper("slow", seconds=0.012),
    ]
    found = _run(candidates, settings(memory=2**28), tmp_path)
    assert found["slow"].fate == "measured"
    assert sorted(found["slow"].samples) == [1, 4]
    assert sorted(found["hungry"].samples) == [1]


def test_out_of_memory_ends_the_sweep_with_the_largest_batch_that_fits(
    sleeper: Sleeper, settings: Settings, tmp_path: Path
) -> None:
    hungry = sleeper("hungry", seconds=0.002, takes_memory_from=4, mebibytes=400)
    found = _run([hungry, sleeper("other", seconds=0.002)], settings(batch_sizes=(1, 2, 4, 8), memory=2**28), tmp_path)
    assert found["hungry"].fate == "measured"
    report = numbers(found["hungry"])
    assert report.largest_batch == 2
    assert re.fullmatch(r"it needs at least \d+ MiB at batch 4: `hardware.memory` is 256Mi", report.limited_by)
    assert [batch.rows for batch in report.batches] == [1, 2]
    assert report.peak_rss < 2**28
    assert numbers(found["other"]).largest_batch == 8


def test_a_model_that_does_not_fit_is_out_of_memory_at_load(
    sleeper: Sleeper, settings: Settings, tmp_path: Path
) -> None:
    found = _run([sleeper("huge", load_mebibytes=200)], settings(memory=2**28), tmp_path)
    assert found["huge"].fate == "out of memory"
    assert re.fullmatch(r"it needs at least \d+ MiB to load: `hardware.memory` is 256Mi", found["huge"].reason)
    assert found["huge"].error is not None
    assert (found["huge"].error.code, found["huge"].error.remedy) == ("E403", "raise `hardware.memory`")
    (tmp_path / "more").mkdir()
    more = _run([sleeper("huge", load_mebibytes=200)], settings(memory=3 * 2**28), tmp_path / "more")
    assert more["huge"].fate == "measured"


def test_a_model_that_a_library_cannot_load_for_lack_of_memory_is_out_of_memory_too(
    sleeper: Sleeper, settings: Settings, tmp_path: Path
) -> None:
    found = _run([sleeper("huge", fails_to_allocate=True)], settings(), tmp_path)["huge"]
    assert found.fate == "out of memory"
    assert found.reason == "out of memory at load: std::bad_alloc"
    assert found.error is not None
    assert (found.error.code, found.error.remedy[:22]) == ("E403", "raise `hardware.memory")


def test_a_child_that_crashes_fails_alone(sleeper: Sleeper, settings: Settings, tmp_path: Path) -> None:
    candidates = [
        sleeper("crashing", seconds=0.002, dies_from=4),
        sleeper("refusing", seconds=0.002, raises_from=4),
        sleeper("unloadable", refuses_to_load=("E420", "no such operator", "this runtime is old", "take a newer one")),
        sleeper("good", seconds=0.002),
    ]
    found = _run(candidates, settings(), tmp_path)
    assert found["crashing"].fate == "failed"
    assert found["crashing"].reason == "its process was killed by SIGABRT at batch 4"
    assert found["refusing"].reason.startswith(
        "RuntimeError: the kernel does not like this batch at batch 4: raised at "
    )
    assert {name: found[name].fate for name in ("refusing", "unloadable")} == dict.fromkeys(
        ("refusing", "unloadable"), "failed"
    )
    assert {name: each.error and each.error.code for name, each in found.items()} == {
        "crashing": "E404",
        "refusing": "E401",
        "unloadable": "E420",
        "good": None,
    }
    refused = StepError("E420", "no such operator", cause="this runtime is old", remedy="take a newer one")
    assert found["unloadable"].error == replace(refused.diagnostic, message="no such operator at load")
    assert found["good"].fate == "measured"
    assert len(found["good"].samples[4]) == 6


def test_a_child_that_waits_uses_no_cpu_and_ends_with_its_parent(tmp_path: Path) -> None:
    with MeasuredProcess(
        "orchestrator.frameworks.source.measure_session", cpu_share(1), memory=None, folder=tmp_path
    ) as process:
        with pytest.raises(Exception, match="nothing is open"):
            process.ask({"do": "run", "rows": 1, "calls": 1, "seconds": 1, "untimed": 0}, 60)
        child = psutil.Process(process.pid)
        before = sum(child.cpu_times()[:2])
        child_cpus = child.cpu_affinity()
        with pytest.raises(psutil.TimeoutExpired):
            child.wait(0.5)
        assert sum(child.cpu_times()[:2]) - before < 0.1
        assert child_cpus is not None
        assert len(child_cpus) == 1
    assert not child.is_running()
