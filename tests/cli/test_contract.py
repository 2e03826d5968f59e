"""The contract of the command line: exit codes, streams, one JSON document, no questions without a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, PlacementRecord, StateFile
from orchestrator.targets.local.placement import LocalPlacement
from tests.cli.conftest import conforms

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.processes

COMMANDS = [
    "init",
    "validate",
    "schema",
    "plan",
    "show",
    "apply",
    "render",
    "predict",
    "benchmark",
    "status",
    "logs",
    "destroy",
    "explain",
    "report",
    "doctor",
    "gc",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_examples_in_its_help(mlo: Mlo, command: str) -> None:
    assert f"mlo {command}" in mlo(command, "--help").stdout.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("aply",), "Did you mean 'apply'?"),
        (("apply",), "Missing argument"),
        (("validate", "--form", "json", "x"), "No such option"),
        (("predict", "nothing", "--input", "x.json"), "there is no deployment `nothing`"),
        (("report", "digits"), "A page needs --output FILE"),
        (
            ("report", "digits.yaml", "--format", "markdown"),
            "there is no decision yet for digits.yaml in its present form",
        ),
        (("init", "nothing.keras"), "nothing.keras does not exist"),
        (("init", "digits.npz"), "an npz file of numpy arrays"),
        (("init", "digits.safetensors", "--name", "Digits"), "use lower-case letters"),
        (("init", "digits.safetensors", "--signature", "x"), "has no signatures to choose from"),
        (("init", "digits.safetensors", "--output", "missing/x.yaml"), "the folder missing does not exist"),
        (("init", "digits.safetensors", "--output", "-", "--json"), "both write to standard output"),
        (("init", "digits.safetensors"), "digits.yaml already exists"),
        (("logs", "nothing"), "there is no deployment `nothing`"),
        (("destroy", "nothing", "--yes"), "there is no deployment `nothing`"),
        (("plan", "digits.yaml", "--replace", "convert.onx"), "did you mean `convert.onnx`?"),
        (("apply", "digits.yaml"), "add --yes"),
        (("show", "digits.npz"), "cannot read the plan"),
        (("show", "missing.json"), "No such file"),
        (("explain", "digits.yaml", "onnx-int9"), "there is no step, candidate or key `onnx-int9`"),
        (("render", "digits.yaml", "--output", "."), "is not empty"),
    ],
)
def test_wrong_usage_exits_with_64_and_says_what_to_do(mlo: Mlo, arguments: tuple[str, ...], said: str) -> None:
    assert said in mlo(*arguments, code=64).stderr


def test_an_invalid_spec_exits_with_65_and_shows_line_caret_and_suggestion(mlo: Mlo, project: Path) -> None:
    spec = project / "digits.yaml"
    spec.write_text(spec.read_text().replace("optimize_for: latency", "optimise_for: latency"))
    told = mlo("plan", "digits.yaml", code=65).stderr
    assert "unknown key `optimise_for`" in told
    assert "did you mean `optimize_for`?" in told
    assert "^^^^" in told


@pytest.mark.parametrize("command", [("plan", "--json"), ("apply", "--yes", "--json")])
def test_a_failing_command_with_json_prints_one_document_of_errors(
    mlo: Mlo, project: Path, command: tuple[str, ...]
) -> None:
    (project / "digits.npz").unlink()
    done = mlo(command[0], "digits.yaml", *command[1:], code=65)
    document = json.loads(done.stdout)
    conforms(document, "errors")
    assert document["errors"][0]["span"]["line"] == 19


def test_plan_as_json_holds_every_step_with_its_reason(mlo: Mlo) -> None:
    document = json.loads(mlo("plan", "digits.yaml", "--json").stdout)
    conforms(document, "plan")
    steps = {step["id"]: step for step in document["steps"]}
    assert steps["import"]["status"] == "run"
    assert len(steps["import"]["key"]) == 64
    assert steps["deploy"]["status"] == "known after run"
    assert all(step["reason"] for step in document["steps"])


def test_validate_as_json_follows_its_schema(mlo: Mlo, project: Path) -> None:
    (project / "bad.yaml").write_text("apiVersion: mlo/v2\n")
    document = json.loads(mlo("validate", "digits.yaml", "bad.yaml", "--format", "json", code=65).stdout)
    conforms(document, "validate")
    assert [entry["valid"] for entry in document["specs"]] == [True, False]


def test_status_of_nothing_is_empty(mlo: Mlo, project: Path) -> None:
    document = json.loads(mlo("status", "--json").stdout)
    conforms(document, "status")
    assert document == {"store": str(project / "home"), "deployments": []}


def test_a_deployment_of_an_unknown_target_does_not_hide_the_others(mlo: Mlo, project: Path) -> None:
    home = Home(project / "home")
    home.prepare()
    known = Deployment(
        name="here",
        placement=LocalPlacement().record(),
        revision=1,
        highest=1,
        backend="onnxruntime",
        variant="onnx-fp32",
        endpoint="http://127.0.0.1:20001",
        spec_file="/spec.yaml",
        spec_digest="",
        decision_digest="",
        model_digest="",
        rendered_digest="",
    )
    moon = PlacementRecord(target="moon", version=1, settings={})
    there = known.model_copy(update={"name": "there", "placement": moon})
    StateFile(home).update(lambda state: state.with_deployment(known).with_deployment(there))
    document = json.loads(mlo("status", "--json", code=1).stdout)
    conforms(document, "status")
    assert [(row["name"], row["health"]) for row in document["deployments"]] == [
        ("here", "stopped"),
        ("there", "unknown"),
    ]
    shown = mlo("status", code=1).stdout
    assert (
        "there cannot be observed: there is deployed to the target `moon`, which this version of mlo does not have"
        in shown
    )
    assert "use the version of mlo that deployed it" in shown


def test_pending_changes_are_2_only_when_asked_for(mlo: Mlo) -> None:
    mlo("plan", "digits.yaml")
    mlo("plan", "digits.yaml", "--detailed-exitcode", code=2)


def test_results_go_to_standard_output_and_remarks_to_standard_error(mlo: Mlo) -> None:
    done = mlo("plan", "digits.yaml", "--out", "digits.plan.json")
    assert "Plan: 0 cached, 1 to run" in done.stdout
    assert "saved; apply exactly this plan with: mlo apply digits.plan.json" in done.stderr


def test_a_saved_plan_shows_what_was_planned(mlo: Mlo) -> None:
    planned = mlo("plan", "digits.yaml", "--out", "digits.plan.json").stdout
    assert mlo("show", "digits.plan.json").stdout == planned
    conforms(json.loads(mlo("show", "digits.plan.json", "--json").stdout), "plan")


def test_the_plan_warns_of_what_a_reviewer_should_know(mlo: Mlo) -> None:
    said = mlo("plan", "digits.yaml").stdout
    assert "TorchServe is no longer maintained" in said
    assert "the base image is named by tag" in said


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (("digits.yaml", "cpus: 2", "cpus: 1"), "the spec"),
        (("digits_model.py", "class DigitsNet", "# changed\nclass DigitsNet"), "code.digits_model.py"),
    ],
)
def test_a_stale_plan_is_refused_with_75_and_says_what_changed(
    mlo: Mlo, project: Path, change: tuple[str, str, str], moved: str
) -> None:
    mlo("plan", "digits.yaml", "--out", "digits.plan.json")
    name, old, new = change
    (project / name).write_text((project / name).read_text().replace(old, new))
    told = mlo("apply", "digits.plan.json", code=75).stderr
    assert "is stale" in told
    assert f"changed: {moved}" in told or moved in told


def test_a_saved_plan_takes_no_further_options(mlo: Mlo) -> None:
    mlo("plan", "digits.yaml", "--out", "digits.plan.json")
    assert "a saved plan cannot be changed" in mlo("apply", "digits.plan.json", "--replace", "import", code=64).stderr


@pytest.mark.parametrize(
    "content",
    ["[]", '{"plans": 5}', '{"format": 4, "plans": []}', '{"format": 4, "plans": [{}]}', "[" * 100_000, "\x00"],
)
def test_a_damaged_plan_file_is_reported(mlo: Mlo, project: Path, content: str) -> None:
    (project / "damaged.json").write_text(content)
    told = mlo("apply", "damaged.json", code=64).stderr
    assert "damaged.json" in told
    assert "mlo plan SPEC --out FILE" in told


@pytest.mark.parametrize("arguments", [("aply", "--json"), ("status", "nothing", "--json"), ("plan", "--json")])
def test_wrong_usage_with_json_prints_the_document_too(mlo: Mlo, arguments: tuple[str, ...]) -> None:
    conforms(json.loads(mlo(*arguments, code=64).stdout), "errors")


def test_all_specs_are_read_before_the_first_is_applied(mlo: Mlo) -> None:
    done = mlo("apply", "digits.yaml", "missing.yaml", "--yes", code=65)
    assert "import: started" not in done.stderr


def test_rendering_below_a_file_is_refused_before_anything_runs(mlo: Mlo) -> None:
    assert "cannot be created" in mlo("render", "digits.yaml", "--output", "digits.yaml/build", code=64).stderr


def test_a_plan_of_another_format_is_refused(mlo: Mlo, project: Path) -> None:
    (project / "old.json").write_text(json.dumps({"format": 0, "plans": []}))
    assert "is a plan of format 0" in mlo("apply", "old.json", code=64).stderr


def test_pinned_weights_that_differ_are_refused_at_their_line(mlo: Mlo, project: Path) -> None:
    spec = project / "digits.yaml"
    spec.write_text(spec.read_text().replace("    kind: pytorch", f"    kind: pytorch\n    sha256: {'0' * 64}"))
    told = mlo("plan", "digits.yaml", code=65).stderr
    assert "digits.safetensors is not the file that `sha256` pins" in told
    assert "sha256: 0000" in told


def test_the_origin_of_a_value_can_be_explained(mlo: Mlo) -> None:
    assert "line" in mlo("explain", "digits.yaml", "hardware.cpus").stdout
    assert "default" in mlo("explain", "digits.yaml", "serving.backend").stdout


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("slo.p99_latency", "slo.p99_latency = 9ms"),
        ("slo", 'slo = {"p99_latency": "9ms", "throughput": "200/s", "total_throughput": null, "enforce": true}'),
        ("optimize.time_budget", "optimize.time_budget = 5m"),
        ("hardware.memory", "hardware.memory = 2Gi"),
        ("hardware.cpus", "hardware.cpus = 2"),
    ],
)
def test_values_are_explained_in_the_units_of_the_spec(mlo: Mlo, project: Path, key: str, shown: str) -> None:
    spec = project / "digits.yaml"
    spec.write_text(spec.read_text().replace("p99_latency: 20ms", "p99_latency: 9ms"))
    assert mlo("explain", "digits.yaml", key).stdout.splitlines()[0] == shown


def test_a_taken_port_and_a_folder_that_cannot_be_made_are_refused_before_anything_runs(
    mlo: Mlo, project: Path
) -> None:
    spec, text = project / "digits.yaml", (project / "digits.yaml").read_text()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        spec.write_text(text.replace("deploy: {target: local}", f"deploy: {{target: local, port: {port}}}"))
        told = mlo("apply", "digits.yaml", "--yes", code=1).stderr
        planned = mlo("plan", "digits.yaml")
    assert f"warning[E618]: port {port} of 127.0.0.1 cannot be used" in planned.stderr
    assert "convert.onnx" in planned.stdout
    assert "E618" not in mlo("plan", "digits.yaml").stderr
    assert f"error[E618]: port {port} of 127.0.0.1 cannot be used" in told
    assert f"| deploy: {{target: local, port: {port}}}" in told
    assert "import: started" not in told
    (project / "file").touch()
    spec.write_text(text.replace("deploy: {target: local}", "deploy: {target: folder, path: file/deployed}"))
    told = mlo("apply", "digits.yaml", "--yes", code=1).stderr
    assert "warning[E620]" in mlo("plan", "digits.yaml").stderr
    assert "error[E620]" in told
    assert "is not a folder" in told
    assert "import: started" not in told


def test_memory_that_cannot_hold_a_server_is_refused_while_planning(mlo: Mlo, project: Path) -> None:
    spec = project / "digits.yaml"
    spec.write_text(spec.read_text().replace("memory: 2Gi", "memory: 32Mi"))
    told = " ".join(mlo("plan", "digits.yaml", code=65).stderr.split())
    assert "error[E201]: no candidate can be tried" in told
    assert "help: raise `hardware.memory`" in told
    assert "its server needs at least 40 MiB before it loads a model, and `hardware.memory` is 32Mi" in told


def test_candidates_can_be_explained_before_there_is_a_decision(mlo: Mlo) -> None:
    refused = mlo("plan", "digits.yaml", "--json")
    (plan,) = json.loads(refused.stdout)["plans"]
    none_tried = next(each for each in plan["refused"] if each["candidate"] == "onnx-bf16")
    said = mlo("explain", "digits.yaml", "onnx-bf16").stdout
    assert said == f"onnx-bf16 on onnxruntime: not tried: {none_tried['reason']}\n"
    tried = mlo("explain", "digits.yaml", "onnx-int8").stdout
    assert "onnx-int8 on onnxruntime: to be tried: convert.onnx" in tried
    everything = mlo("explain", "digits.yaml").stdout
    assert "there is no decision yet" in everything
    assert said in everything
    assert tried in everything


def test_why_a_step_would_run_can_be_explained(mlo: Mlo) -> None:
    said = mlo("explain", "digits.yaml", "import").stdout
    assert "import: run (never run)" in said
    assert "tools.torch = " in said


def test_an_error_code_can_be_explained(mlo: Mlo) -> None:
    assert "E101" in mlo("explain", "E101").stdout
    assert "E798" in mlo("explain", "E798", code=64).stderr


@pytest.mark.parametrize("listed", [None, "../precious.txt\n/precious\nsub\n"])
def test_render_never_removes_what_it_did_not_write(mlo: Mlo, project: Path, listed: str | None) -> None:
    folder = project / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "precious.txt").write_text("mine")
    (project / "precious.txt").write_text("mine too")
    told = mlo("render", "digits.yaml", "--output", "folder", "--force", code=64).stderr
    assert "was not written by `mlo render`" in told
    assert (folder / "sub" / "precious.txt").read_text() == "mine"
    # A forged mark cannot make it remove anything outside the folder, or a folder.
    from orchestrator.cli.render import _remove_listed

    for line in (listed or "").splitlines():
        _remove_listed(folder, line)
    assert (project / "precious.txt").read_text() == "mine too"
    assert (folder / "sub" / "precious.txt").read_text() == "mine"


def test_gc_of_an_empty_store_frees_nothing(mlo: Mlo) -> None:
    assert "there is no store" in mlo("gc").stdout
    mlo("plan", "digits.yaml")
    assert "freed 0.0 MiB" in mlo("gc").stdout


def test_a_home_that_cannot_be_written_is_reported(mlo: Mlo, project: Path) -> None:
    (project / "file").write_text("not a folder")
    told = mlo("status", code=1, MLO_HOME=str(project / "file")).stderr
    assert "cannot store files in" in told
    assert "set MLO_HOME" in told


def test_a_damaged_state_is_reported_and_not_changed(mlo: Mlo, project: Path) -> None:
    mlo("plan", "digits.yaml")
    state = project / "home" / "state.json"
    state.write_text("{")
    assert "cannot be read" in mlo("status", code=1).stderr
    assert state.read_text() == "{"


def test_a_closed_pipe_is_not_an_error(project: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -P -m orchestrator.cli schema | head -1",
        shell=True,
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{"
    assert done.stderr == ""


def on_a_terminal(project: Path, *arguments: str, answer: bytes = b"", **env: str) -> tuple[int, str]:
    """Run with a pseudo-terminal for all three streams; returns the exit code and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project)
        os.environ.update({"MLO_HOME": str(project / "home"), "TERM": "xterm-256color", **env})
        os.execv(sys.executable, [sys.executable, "-P", "-m", "orchestrator.cli", *arguments])
    if answer:
        os.write(terminal, answer)
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_colour_is_for_terminals_and_not_with_no_color(mlo: Mlo, project: Path) -> None:
    assert "\x1b[" not in mlo("plan", "digits.yaml").stdout
    assert "\x1b[" in on_a_terminal(project, "plan", "digits.yaml")[1]
    assert "\x1b[" not in on_a_terminal(project, "plan", "digits.yaml", NO_COLOR="1")[1]


def test_on_a_terminal_apply_shows_the_plan_and_accepts_a_no(project: Path) -> None:
    code, shown = on_a_terminal(project, "apply", "digits.yaml", answer=b"n\n")
    assert code == 1
    assert "Apply this? [y/N]" in shown
    assert "nothing was changed" in shown
    assert "never run" in shown


def test_an_interrupt_exits_with_130_and_leaves_no_worker(project: Path) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "apply", "digits.yaml", "--yes"]
    # A separate cache folder: otherwise it would wait for another user's measurement.
    env = {**os.environ, "MLO_HOME": str(project / "home"), "XDG_CACHE_HOME": str(project / "cache")}
    with subprocess.Popen(
        command, cwd=project, env=env, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("store: ")
        assert "import: started" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert "press Ctrl-C again to kill" in process.stderr.readline()
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(60) == 130
    assert "cause: Ctrl-C" in told
    assert "finished steps are kept" in told
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_a_job_that_is_cancelled_is_told_of_sigterm_and_not_of_keys(project: Path) -> None:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "apply", "digits.yaml", "--yes"]
    env = {**os.environ, "MLO_HOME": str(project / "home"), "XDG_CACHE_HOME": str(project / "cache")}
    with subprocess.Popen(
        command, cwd=project, env=env, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("store: ")
        assert "import: started" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        shown = process.stderr.read()
        assert process.wait(60) == 130
    assert "cause: SIGTERM" in shown
    assert "Ctrl-C" not in shown
