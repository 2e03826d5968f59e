"""Plans run once, in the right order, and continue where they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.artifacts.fates import Fates, StepFate
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.local import LocalExecutor
from orchestrator.engine.preview import preview
from orchestrator.engine.step_runner import StepRunner
from orchestrator.engine.stop import Stop
from orchestrator.errors import Interrupted, MloError, SpecInvalid, StepFailed
from orchestrator.events import StepEnded
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.step import FileInput, StepOutput
from orchestrator.release.live import Live
from orchestrator.steps.context import Ending
from orchestrator.store.gc import collect

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.processes

WaitUntil = Callable[[Callable[[], bool]], None]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def test_a_step_runs_once_and_is_cached_after(project: Project) -> None:
    first = project.run(project.write_step())
    second = project.run(project.write_step())
    assert project.text(first, "write") == project.text(second, "write") == "hello"
    assert project.runs() == 1
    assert StepEnded("write", "cached", 0.0, f"computed {second['write'].receipt.started}") in project.events


def test_a_changed_parameter_runs_it_again_and_an_equal_result_leaves_the_rest_cached(project: Project) -> None:
    join = project.step("join", "join", inputs={"a": StepOutput("write")})
    project.run(project.write_step(), join)
    # 'hello' again, but by another key: the step runs, its result is the same, so join stays cached.
    changed = project.write_step(revision=2)
    project.events.clear()
    project.run(changed, join)
    ended = {event.step: event.status for event in project.events if isinstance(event, StepEnded)}
    assert ended == {"write": "done", "join": "cached"}


def test_forcing_runs_a_cached_step(project: Project) -> None:
    project.run(project.write_step())
    project.run(project.write_step(), forced=frozenset({"write"}))
    assert project.runs() == 2


def test_a_candidate_that_refuses_is_a_fate_and_is_not_tried_again(project: Project) -> None:
    steps = (
        project.step("convert.a", "refuse", candidate="a"),
        project.step("verify.a", "join", inputs={"a": StepOutput("convert.a")}, candidate="a"),
        project.step(
            "select", "fates", inputs={"a": StepOutput("verify.a")}, optional=frozenset({"a"}), gathers_fates=True
        ),
    )
    outcomes = project.run(*steps)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "convert.a": "failed",
        "verify.a": "skipped",
        "select": "done",
    }
    fates = Fates.from_bytes(project.text(outcomes, "select").encode(), "fates")
    assert fates.steps["convert.a"] == StepFate(
        kind="convert",
        status="failed",
        ending=Ending.REFUSED,
        error=Diagnostic("E499", "cannot do it", cause="it is a test", remedy="do not ask", at=("metadata", "name")),
    )
    project.events.clear()
    project.run(*steps)
    assert not [event for event in project.events if type(event).__name__ == "StepStarted"]


def test_a_candidate_that_crashes_is_tried_again(project: Project) -> None:
    step = project.step("convert.a", "kill_itself", candidate="a")
    project.run(step)
    project.events.clear()
    project.run(step)
    assert [event for event in project.events if type(event).__name__ == "StepStarted"]


def test_any_other_step_that_fails_ends_the_run(project: Project) -> None:
    with pytest.raises(StepFailed):
        project.run(project.step("import", "refuse"), project.write_step(inputs={"a": StepOutput("import")}))
    assert project.runs() == 0


def test_a_refusal_that_explains_itself_is_kept_with_its_documents(project: Project) -> None:
    parameters = {"text": "reasons", "runs": str(project.folder / "runs"), "keeps_output": True}
    steps = (
        project.step("select", "refuse_with_reasons", params=parameters),
        project.write_step(inputs={"a": StepOutput("select")}),
    )

    def refused() -> Path:
        with pytest.raises(StepFailed, match="too long") as caught:
            project.run(*steps)
        assert caught.value.explained_in is not None
        return caught.value.explained_in / "text.txt"

    file = refused()
    assert file.read_text(encoding="utf-8") == "reasons"
    collect(project.store)
    assert refused() == file
    assert project.runs() == 1, "garbage collection keeps it, and it is not tried again"
    file.chmod(0o644)
    file.write_text("other", encoding="utf-8")
    assert refused().read_text(encoding="utf-8") == "reasons", "what is damaged is made again"
    assert project.runs() == 2


@pytest.mark.parametrize(("texts", "measured"), [(["a", "b"], False), (["a", "good"], True)])
def test_nobody_is_measured_if_nobody_passed_verification(project: Project, texts: list[str], measured: bool) -> None:
    written = [
        replace(project.step("w", "write", params={"text": text, "runs": str(project.folder / "made")}), id=f"w{n}")
        for n, text in enumerate(texts)
    ]
    judged = [
        project.step(f"verify.{step.id}", "judge", inputs={"text": StepOutput(step.id)}, candidate=step.id)
        for step in written
    ]
    verdicts = {f"verdict:{step.id}": StepOutput(step.id) for step in judged}
    failed = project.step("verify.c", "refuse", candidate="c")
    benchmark = project.write_step(
        inputs={**verdicts, "verdict:c": StepOutput("verify.c")},
        optional=frozenset({*verdicts, "verdict:c"}),
        contenders="verified",
    )
    after = project.step("after", "write", params={"text": "x", "runs": str(project.folder / "after")},
                         inputs={"runtime": StepOutput("write")}, optional=frozenset({"runtime"}))  # fmt: skip
    outcomes = project.run(*written, *judged, failed, benchmark, after)
    assert (project.runs() == 1) is measured
    assert outcomes["write"].status == ("done" if measured else "skipped")
    assert outcomes["after"].status == "done", "the selection decides without it"
    if not measured:
        error = outcomes["write"].error
        assert error is not None
        assert error.message == "no candidate passed verification, so there is nothing to measure"
        planned = preview(
            project.plan(*written, *judged, failed, benchmark, after),
            Resolver(project.loaded, project.plan(), project.store),
            Live(None, None),
        )
        assert {step.id: step.status for step in planned.steps}["write"] == "skipped"
        assert not planned.changes


def test_a_measurement_that_proves_nothing_is_not_made(project: Project) -> None:
    outcomes = project.run(project.write_step(pointless="no server can be measured"))
    assert outcomes["write"].status == "skipped"
    assert project.runs() == 0


def test_a_refusal_without_documents_leaves_nothing(project: Project) -> None:
    parameters = {"text": "half", "runs": str(project.folder / "runs"), "keeps_output": False}
    for _ in range(2):
        with pytest.raises(StepFailed) as caught:
            project.run(project.step("select", "refuse_with_reasons", params=parameters))
        assert caught.value.explained_in is None
    assert project.runs() == 2
    assert not list(project.store.trees.digests())


def test_a_damaged_result_is_found_and_computed_again(project: Project) -> None:
    outcomes = project.run(project.write_step())
    receipt = outcomes["write"].receipt
    assert receipt is not None
    assert receipt.manifest is not None
    stored = project.store.trees.path(receipt.manifest.digest) / "text.txt"
    stored.chmod(0o644)
    stored.write_text("jello", encoding="utf-8")
    again = project.run(project.write_step())
    assert project.text(again, "write") == "hello"
    assert project.runs() == 2


def test_a_document_of_another_version_is_written_anew_by_the_replacement_that_is_named(project: Project) -> None:
    version = project.folder / "version"
    params = {"text": "hello", "runs": str(project.folder / "runs"), "version": str(version)}
    written = project.step("write", "write_as_the_version_says", params=params)
    read = project.step("read", "read_length", inputs={"text": StepOutput("write")})
    version.write_text("0", encoding="utf-8")
    project.run(written)

    version.write_text("1", encoding="utf-8")  # mlo was updated
    for _ in range(2):
        with pytest.raises(MloError) as refused:
            project.run(written, read)
        (found,) = refused.value.diagnostics
        assert found.code == "E714"
        assert "mlo apply SPEC --replace STEP" in found.remedy
    outcomes = project.run(written, read, forced=frozenset({"write"}))
    assert project.text(outcomes, "read") == "5"


def test_a_missing_input_names_the_line(project: Project) -> None:
    (project.folder / "weights.pt").unlink()
    weights = FileInput(project.folder / "weights.pt", ("model", "source", "weights"))
    with pytest.raises(SpecInvalid) as caught:
        project.run(project.step("import", "join", inputs={"weights": weights}))
    told = caught.value.diagnostics[0]
    assert told.code == "E203"
    assert told.span is not None
    assert told.span.line == 6
    assert told.remedy == "give the path of a file that exists and can be read"
    (project.folder / "other.pt").write_text("weights", encoding="utf-8")
    there = FileInput(project.folder / "other.pt", ("model", "source", "weights"))
    project.run(project.step("import", "join", inputs={"weights": there}))


def test_a_step_that_measures_runs_alone(project: Project, tmp_path: Path) -> None:
    project.run(
        project.step("a", "slow", params={"pids": str(tmp_path / "a")}),
        project.step("b", "slow", params={"pids": str(tmp_path / "b")}, exclusive=True),
        project.step("c", "slow", params={"pids": str(tmp_path / "c")}),
    )
    order = [(type(event).__name__, getattr(event, "step", "")) for event in project.events]
    assert order[order.index(("StepStarted", "b")) + 1] == ("StepEnded", "b")


def interrupt_when(path: Path, stop: Stop, times: int, wait_until: WaitUntil) -> threading.Thread:
    def ask() -> None:
        try:
            wait_until(path.exists)
        finally:  # the run must end even if the step never begins
            for _ in range(times):
                stop.ask()

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_one_interrupt_lets_a_step_finish(project: Project, tmp_path: Path, wait_until: WaitUntil) -> None:
    stop, pids = Stop(), tmp_path / "pids"
    thread = interrupt_when(pids, stop, 1, wait_until)
    step = project.step("slow", "slow", params={"pids": str(pids)})
    with pytest.raises(Interrupted) as ended:
        project.run(step, project.write_step(inputs={"a": StepOutput("slow")}), stop=stop)
    (told,) = ended.value.diagnostics
    assert (told.code, told.remedy) == ("E407", "run the same command again: finished steps are kept")
    thread.join()
    assert project.runs() == 0
    assert project.text(project.run(step), "slow") == "done"


def test_one_interrupt_ends_a_measurement(project: Project, tmp_path: Path, wait_until: WaitUntil) -> None:
    stop, pids = Stop(), tmp_path / "pids"
    thread = interrupt_when(pids, stop, 1, wait_until)
    with pytest.raises(Interrupted):
        project.run(project.step("bench", "hang_alone", params={"pids": str(pids)}, exclusive=True), stop=stop)
    thread.join()


def test_two_interrupts_kill_what_runs(project: Project, tmp_path: Path, wait_until: WaitUntil) -> None:
    stop, pids = Stop(), tmp_path / "pids"
    thread = interrupt_when(pids, stop, 2, wait_until)
    with pytest.raises(Interrupted):
        project.run(project.step("hang", "hang", params={"pids": str(pids)}), stop=stop)
    thread.join()
    for pid in pids.read_text(encoding="utf-8").split():
        wait_until(partial(is_gone, int(pid)))


def test_a_step_that_fails_ends_the_others(project: Project, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(StepFailed):
        project.run(
            project.step("hang", "hang_alone", params={"pids": str(pids)}, timeout=120),
            project.step("import", "refuse_beside", params={"pids": str(pids)}),
            jobs=2,
        )
    assert time.monotonic() - began < 90, "the run waited for the other step's time limit"
    assert is_gone(int(pids.read_text(encoding="utf-8")))


def test_a_result_that_another_run_computes_meanwhile_is_remembered_as_this_ones(project: Project) -> None:
    step = project.write_step()
    plan, store = project.plan(step), project.store
    resolver = Resolver(project.loaded, plan, store)
    resolved = resolver.resolve(step, {})
    assert resolved is not None
    project.run(step)  # for the deployment `small`
    executor = LocalExecutor(store, plan.project, plan.roots)
    runner = StepRunner(replace(plan, name="other"), resolver, store, project.events.append, Stop(), executor)
    assert runner.compute(step, resolved, {}).status == "done"
    assert project.runs() == 1
    assert store.receipts.latest("write", "other") is not None


RUN_A_PLAN = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import conftest
from orchestrator.plan.step import StepOutput
from orchestrator.spec.load import load_spec
from orchestrator.store.home import Home
home = Home(Path({home!r})); home.prepare()
p = conftest.Project(Path({folder!r}), load_spec({folder!r} + "/spec.yaml"), home)
{body}
"""


def child(project: Project, body: str, **env: str) -> subprocess.Popen[bytes]:
    here = Path(__file__).parent
    code = RUN_A_PLAN.format(
        path=[str(here), str(here.parents[1])], home=str(project.home.root), folder=str(project.folder), body=body
    )
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env})


def test_kill_minus_nine_of_the_parent_leaves_no_orphans(
    project: Project, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pids = tmp_path / "pids"
    parent = child(project, f"p.run(p.step('hang', 'hang', params={{'pids': {str(pids)!r}}}))")
    wait_until(lambda: pids.exists() and len(pids.read_text(encoding="utf-8").split()) == 2)
    worker, grandchild = map(int, pids.read_text(encoding="utf-8").split())
    parent.kill()
    parent.wait()
    wait_until(lambda: is_gone(worker) and is_gone(grandchild))


@pytest.mark.parametrize(
    "point",
    [
        "engine.before-worker",
        "engine.after-worker",
        "engine.before-receipt",
        "engine.after-receipt",
        "tree.after-rename",
    ],
)
def test_a_run_killed_anywhere_continues_where_it_was(project: Project, point: str) -> None:
    body = "p.run(p.write_step(), p.step('join', 'join', inputs={'a': StepOutput('write')}))"
    killed = child(project, body, MLO_CRASH_AT=point)
    assert killed.wait(120) == -signal.SIGKILL
    ran = project.runs()
    assert ran == (0 if point == "engine.before-worker" else 1)
    steps = (project.write_step(), project.step("join", "join", inputs={"a": StepOutput("write")}))
    outcomes = project.run(*steps)
    assert project.text(outcomes, "join") == "hello"
    finished = point == "engine.after-receipt"
    assert project.runs() == ran if finished else project.runs() == ran + 1


def test_eight_runs_at_once_compute_each_key_once(project: Project) -> None:
    body = "p.run(p.write_step(), p.step('join', 'join', inputs={'a': StepOutput('write')}))"
    children = [child(project, body) for _ in range(8)]
    assert [process.wait(240) for process in children] == [0] * 8
    assert project.runs() == 1


def test_waiting_for_another_run_ends_with_an_interrupt(
    project: Project, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pids = tmp_path / "pids"
    holder = child(project, f"p.run(p.step('hang', 'hang_alone', params={{'pids': {str(pids)!r}}}))")
    wait_until(pids.exists)
    stop = Stop()
    timer = threading.Timer(1.0, stop.ask)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        project.run(project.step("hang", "hang_alone", params={"pids": str(pids)}), stop=stop)
    assert time.monotonic() - began < 30
    holder.kill()
    holder.wait()


def test_measurements_of_several_runs_take_turns_and_say_their_place(
    project: Project, tmp_path: Path, wait_until: WaitUntil, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = (
        "from orchestrator.cli.progress import lines\np.events = type('E', (), {'append': staticmethod(lines())})()\n"
    )
    queue = tmp_path / "cache" / "mlo" / "measuring.queue"

    def measure(name: str, function: str = "slow") -> subprocess.Popen[bytes]:
        step = f"p.step({name!r}, {function!r}, params={{'pids': {str(tmp_path / name)!r}}}, exclusive=True)"
        return child(project, f"{printed}p.run({step})")

    holder = measure("a", "hang_alone")
    wait_until((tmp_path / "a").exists)
    waiting = {}
    for name in "bcd":
        waiting[name] = measure(name)
        wait_until(lambda: len(list(queue.glob("0*"))) == len(waiting))
    waiting["c"].kill()
    waiting["c"].wait()
    holder.kill()
    holder.wait()
    assert [waiting[name].wait(120) for name in "bd"] == [0, 0]
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said if ": started" in line] == ["a", "b", "d"]
    for name, place in (("b", "1st"), ("c", "2nd"), ("d", "3rd")):
        begins = f"{name}: waits for another measurement: {place} in the queue; now: process {holder.pid} (a, since "
        assert any(line.startswith(begins) for line in said), said


def test_what_a_person_waits_for_does_not_wait_behind_a_run_that_waits_for_its_turn(
    project: Project, tmp_path: Path, wait_until: WaitUntil
) -> None:
    pids, queue = tmp_path / "pids", tmp_path / "cache" / "mlo" / "measuring.queue"
    holder = child(project, f"p.run(p.step('a', 'hang_alone', params={{'pids': {str(pids)!r}}}, exclusive=True))")
    wait_until(pids.exists)
    waiting = child(project, "p.run(p.write_step())")
    wait_until(lambda: len(list(queue.glob("0*"))) == 1)

    outcomes = project.run(replace(project.write_step(), light=True))

    assert project.text(outcomes, "write") == "hello"
    assert waiting.poll() is None
    holder.kill()
    holder.wait()
    assert waiting.wait(120) == 0
    assert project.runs() == 1, "what was computed meanwhile is not computed again"
