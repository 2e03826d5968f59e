"""The cause of a step's death is reported, with where to look."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.errors import StepFailed
from orchestrator.plan.step import FileInput, StepOutput
from orchestrator.steps.parameters import CodeAccess

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("function", "code", "message", "cause"),
    [
        ("refuse", "E499", "cannot do it", "it is a test"),
        ("fail", "E401", "RuntimeError: nobody foresaw this", "steps_under_test.py"),
        ("segfault", "E404", "bad was killed by SIGSEGV", "a crash in native code"),
        ("kill_itself", "E404", "bad was killed (SIGKILL)", "another process killed it"),
        (
            "exit_silently",
            "E404",
            "bad ended with exit code 3 without writing a result",
            "a library or the model's code",
        ),
        ("run_out_of_memory", "E403", "bad ran out of memory", "Python could not allocate"),
    ],
)
def test_each_cause_of_death_is_reported(project: Project, function: str, code: str, message: str, cause: str) -> None:
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", function))
    (told,) = caught.value.diagnostics
    assert (told.code, told.message) == (code, message)
    assert cause in told.cause
    notes = dict(note.split(": ", 1) for note in told.notes)
    assert Path(notes["log"]).is_file()
    assert os.access(notes["reproduce"], os.X_OK)


def test_a_refusal_points_at_the_line_that_is_to_blame(project: Project) -> None:
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", "refuse"))
    span = caught.value.diagnostics[0].span
    assert span is not None
    assert (span.line, span.text.strip()) == (4, "name: small")


def test_the_log_holds_the_python_line_of_a_native_crash(project: Project) -> None:
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", "segfault"))
    notes = dict(note.split(": ", 1) for note in caught.value.diagnostics[0].notes)
    log = Path(notes["log"]).read_text(encoding="utf-8")
    assert "about to crash" in log
    assert "in segfault" in log


def test_the_reproduce_script_runs_the_step_alone(project: Project) -> None:
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", "fail"))
    assert caught.value.diagnostics[0].code == "E401"
    notes = dict(note.split(": ", 1) for note in caught.value.diagnostics[0].notes)
    again = subprocess.run([notes["reproduce"]], capture_output=True, text=True, check=False, cwd="/")
    assert again.returncode == 1
    assert "RuntimeError: nobody foresaw this" in again.stderr


def test_code_that_ends_the_process_imports_without_that_call(project: Project) -> None:
    blocks = project.folder / "blocks.py"
    blocks.write_text("import os\nWORD = 'one'\nos._exit(0)\n", encoding="utf-8")
    step = project.step("code", "imports_user_code", user_code=CodeAccess())
    with pytest.raises(StepFailed) as caught:
        project.run(step)
    (told,) = caught.value.diagnostics
    assert told.code == "E404"
    assert "if the model's code calls `sys.exit` or `os._exit`, remove the call" in told.remedy
    blocks.write_text("WORD = 'one'\n", encoding="utf-8")
    assert project.text(project.run(step), "code") == "one"


def test_a_candidate_that_takes_too_long_gets_more_time(project: Project, tmp_path: Path) -> None:
    step = project.step("convert.a", "slow", params={"pids": str(tmp_path / "pids")}, timeout=1)
    with pytest.raises(StepFailed) as caught:
        project.run(step)
    (told,) = caught.value.diagnostics
    assert told.code == "E402"
    assert told.remedy.startswith("raise `optimize.time_budget`")
    assert project.text(project.run(replace(step, timeout=60)), "convert.a") == "done"


def test_the_time_of_a_candidates_step_that_took_too_long_is_known(project: Project, tmp_path: Path) -> None:
    params = {"pids": str(tmp_path / "pids")}
    outcome = project.run(project.step("convert.a", "slow", params=params, timeout=1, candidate="a"))["convert.a"]
    assert outcome.receipt is None
    assert outcome.took is not None
    assert outcome.took.seconds >= 1


def test_a_step_runs_once_the_one_before_it_succeeds(project: Project) -> None:
    after = project.step("optimize.a", "read_text", inputs={"text": StepOutput("convert.a", "text.txt")}, candidate="a")
    skipped = project.run(project.step("convert.a", "refuse", candidate="a"), after)["optimize.a"].error
    assert skipped is not None
    assert (skipped.code, skipped.message) == ("E408", "convert.a did not succeed: cannot do it")
    outcomes = project.run(project.write_step(id="convert.a", candidate="a"), after)
    assert project.text(outcomes, "optimize.a") == "hello"


def test_a_step_that_takes_too_long_is_ended_with_all_its_children(
    project: Project, tmp_path: Path, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", "hang", params={"pids": str(pids)}, timeout=3))
    assert caught.value.diagnostics[0].message == "bad took longer than 3 s"
    hung = [int(pid) for pid in pids.read_text(encoding="utf-8").split()]
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in hung))


def test_a_file_that_changes_while_it_is_read_leaves_no_receipt(project: Project) -> None:
    weights = FileInput(project.folder / "weights.pt", ("model", "source", "weights"))
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("bad", "change_the_weights", inputs={"weights": weights}))
    assert caught.value.diagnostics[0].message == "weights.pt changed while bad was reading it"
    assert caught.value.diagnostics[0].code == "E405"
    assert caught.value.diagnostics[0].remedy == "run the same command again once the file is complete"
    assert not list(project.home.receipts.glob("*.json"))
    again = project.run(project.step("bad", "read_weights", inputs={"weights": weights}))
    assert project.text(again, "bad") == "changed meanwhile"


def test_gpus_are_numbered_by_the_bus_in_a_worker(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    outcomes = project.run(project.step("env", "show_environment"))
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in project.text(outcomes, "env").splitlines(), "as mlo names and counts them"


def test_secrets_of_the_environment_do_not_reach_a_worker(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    outcomes = project.run(project.step("env", "show_environment"))
    names = {line.partition("=")[0] for line in project.text(outcomes, "env").splitlines()}
    assert "AWS_SECRET_ACCESS_KEY" not in names
    assert "PATH" in names


def test_only_a_step_that_starts_containers_learns_where_the_engine_is(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "DOCKER_CERT_PATH": "/certs",
        "DOCKER_CONFIG": "/config",
        "DOCKER_CONTEXT": "far",
        "DOCKER_HOST": "tcp://engine:2376",
        "DOCKER_TLS_VERIFY": "1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for containers in (False, True):
        step = project.step(
            f"env-{containers}", "show_environment", params={"containers": containers}, containers=containers
        )
        lines = project.text(project.run(step), step.id).splitlines()
        found = dict(line.split("=", 1) for line in lines if line.startswith("DOCKER_"))
        assert found == (given if containers else {})


def test_a_step_has_no_network_unless_it_needs_it(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        params = {"port": server.getsockname()[1]}
        allowed = project.run(project.step("asks", "connect", params=params, network=True))
        assert project.text(allowed, "asks") == "reached"
        alone = project.step("phones-home", "connect", params={**params, "alone": True}, candidate="x")
        outcome = project.run(alone)["phones-home"]
    (log,) = project.home.logs.glob("phones-home-*/log.txt")
    if "mlo cannot cut this step off from the network" in log.read_text(encoding="utf-8"):
        pytest.skip("this system allows no network namespaces")
    assert outcome.error is not None
    assert "Network is unreachable" in outcome.error.message


def test_a_refusal_caused_by_a_full_disk_is_reported_as_such_and_not_cached(project: Project) -> None:
    step = project.step("convert.a", "refuse_for_want_of_room", candidate="a")
    with pytest.raises(StepFailed) as caught:
        project.run(step)
    assert caught.value.diagnostics[0].code == "E409"
    assert "free disk space (`mlo gc` removes what no deployment needs)" in caught.value.diagnostics[0].remedy
    assert not list(project.home.receipts.glob("*.json"))
    assert project.text(project.run(project.write_step(id="convert.a", candidate="a")), "convert.a") == "hello"


def test_a_refusal_caused_by_too_many_open_files_is_not_cached(project: Project) -> None:
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("convert.a", "refuse_for_want_of_files"))
    assert caught.value.diagnostics[0].code == "E499"
    assert not list(project.home.receipts.glob("*.json"))


def test_a_refusal_of_files_that_changed_meanwhile_is_not_cached(project: Project) -> None:
    weights = FileInput(project.folder / "weights.pt", ("model", "source", "weights"))
    step = project.step("convert.a", "change_the_weights_and_refuse", inputs={"weights": weights}, candidate="a")
    with pytest.raises(StepFailed) as caught:
        project.run(step)
    assert caught.value.diagnostics[0].code == "E405"
    assert not list(project.home.receipts.glob("*.json"))


def test_code_that_changes_while_a_step_runs_leaves_no_receipt(project: Project) -> None:
    blocks = project.folder / "blocks.py"
    blocks.write_text("WORD = 'one'\n", encoding="utf-8")
    with pytest.raises(StepFailed) as caught:
        project.run(project.step("code", "imports_and_changes_user_code", user_code=CodeAccess()))
    assert caught.value.diagnostics[0].message == "blocks.py changed while code was running"
    assert not list(project.home.receipts.glob("*.json"))
