"""The digits example from spec to answers, and everything that can happen to a deployment on the way."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def spec(mlo: Mlo) -> Path:
    """The digits spec with fewer candidates and without enforcing the service level: machines that test are noisy."""
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, mlo.folder / name)
    path: Path = mlo.folder / "digits.yaml"
    text = (ROOT / "specs" / "digits" / "digits.yaml").read_text(encoding="utf-8")
    text = text.replace("precisions: [fp32, bf16, int8]", "precisions: [fp32, int8]\n  formats: [onnx]")
    text = text.replace("time_budget: 5m", "time_budget: 1m")
    path.write_text(text.replace("throughput: 200/s}", "throughput: 200/s, enforce: false}"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def applied(mlo: Mlo, spec: Path) -> dict[str, Any]:
    document = mlo.json("apply", str(spec), "--yes", "--json")
    conforms(document, "apply")
    (deployment,) = document["deployments"]
    return dict(deployment)


def conforms(document: Any, name: str) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)


def changed(spec: Path, old: str, new: str) -> Path:
    """A copy of the spec with one change, for the same deployment."""
    text = spec.read_text(encoding="utf-8")
    assert old in text
    path = spec.with_name("changed.yaml")
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def asked_from(spec: Path, site: str) -> Path:
    """A copy whose server answers pages of this site: another release, but nothing to measure."""
    path = spec.with_name("changed.yaml")
    text = spec.read_text(encoding="utf-8")
    path.write_text(f"{text}serving: {{cors: {{origins: ['https://{site}.example.com']}}}}\n", encoding="utf-8")
    return path


def quick(spec: Path, old: str = "", new: str = "") -> Path:
    """A copy with as few measurements as possible, for tests that are about something else."""
    path = changed(spec, old, new)
    text = path.read_text(encoding="utf-8").replace("[fp32, int8]", "[fp32]").replace("[1, 8, 32]", "[1]")
    path.write_text(text + "serving: {backend: onnxruntime, wire: json}\n", encoding="utf-8")
    return path


def status(mlo: Mlo, code: int = 0) -> dict[str, Any]:
    document = mlo.json("status", "digits", "--json", code=code)
    conforms(document, "status")
    return dict(document["deployments"][0])


def processes_of(mlo: Mlo, module: str = "") -> list[psutil.Process]:
    """The processes of this store that run a module of mlo's."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(mlo.folder) in part for part in process.info["cmdline"] or [])
        and (not module or module in process.info["cmdline"])
    ]


def test_the_decision_holds_every_candidate_with_its_fate(applied: dict[str, Any]) -> None:
    fates = {c["candidate"]: c["fate"] for c in applied["decision"]["candidates"]}
    assert set(fates) == {"onnx-fp32", "onnx-fp32@openvino", "onnx-int8", "onnx-int8@openvino"}
    assert list(fates.values()).count("won") == 1
    assert all(c["reason"] for c in applied["decision"]["candidates"])
    assert applied["decision"]["winner"]["variant"] == applied["variant"]


def test_the_artifacts_are_there(applied: dict[str, Any]) -> None:
    assert {"serving", "docker", "chart", "compose.yaml", "values.yaml"} <= {
        path.name for path in Path(applied["artifacts"]).iterdir()
    }


def test_the_server_is_warm_at_the_sizes_that_were_measured(applied: dict[str, Any]) -> None:
    config = json.loads((Path(applied["artifacts"]) / "serving" / "server.json").read_text(encoding="utf-8"))
    assert config["batch_sizes"] == [size for size in (1, 8, 32) if size <= config["max_batch_size"]]


def test_the_server_reads_digits(mlo: Mlo, applied: dict[str, Any]) -> None:
    document = mlo.json("predict", "digits", "--input", "digits.npz", "--json")
    conforms(document, "predict")
    predicted = np.asarray(document["outputs"]["logits"]).argmax(axis=1)
    with np.load(mlo.folder / "digits.npz") as samples:
        assert (predicted == samples["labels"]).mean() > 0.97


def test_a_json_file_with_one_row_is_answered_in_text(mlo: Mlo, applied: dict[str, Any]) -> None:
    (mlo.folder / "zero.json").write_text(json.dumps({"image": [[[[0.0] * 8] * 8]]}))
    assert "logits: float32 [1, 10]" in mlo.run("predict", "digits", "--input", "zero.json").stdout


@pytest.mark.alone
def test_applying_again_does_nothing_and_is_quick(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    began = time.monotonic()
    again = mlo.json("apply", str(spec), "--yes", "--json")["deployments"][0]
    assert time.monotonic() - began < 5
    assert (again["revision"], again["endpoint"]) == (applied["revision"], applied["endpoint"])
    steps = mlo.json("plan", str(spec), "--json")["steps"]
    assert {step["status"] for step in steps} == {"cached", "="}
    mlo.run("plan", str(spec), "--detailed-exitcode")
    assert "Plan: nothing to do." in mlo.run("plan", str(spec)).stdout


def test_reasons_can_be_explained(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    assert f"{applied['variant']} on onnxruntime won" in mlo.run("explain", str(spec)).stdout
    assert "In the runtime:" in mlo.run("explain", str(spec), "onnx-fp32").stdout
    assert "tools.onnx = " in mlo.run("explain", str(spec), "convert.onnx").stdout
    for part in ("memory", "render", "hardware.cpus"):
        assert mlo.run("explain", "digits", part).stdout == mlo.run("explain", str(spec), part).stdout
    text = spec.read_text(encoding="utf-8")
    spec.write_text(text.replace("p99_latency: ", "p99_latency: 1"), encoding="utf-8")
    try:
        refused = mlo.run("explain", "digits", "memory", code=64).stderr
        assert "there is none as it was applied" in " ".join(refused.split())
    finally:
        spec.write_text(text, encoding="utf-8")


def test_rendering_twice_gives_the_same_bytes(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    first = mlo.run("render", str(spec), "--output", "one").stdout
    second = mlo.run("render", str(spec), "--output", "two").stdout
    assert first.split("sha256")[1] == second.split("sha256")[1]
    assert subprocess.run(["diff", "-r", "one", "two"], cwd=mlo.folder, check=False).returncode == 0


def test_render_replaces_what_it_wrote_and_nothing_else(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    mlo.run("render", str(spec), "--output", "again")
    (mlo.folder / "again" / "notes.txt").write_text("mine")
    (mlo.folder / "again" / "chart" / "Chart.yaml").unlink()
    assert "is not empty" in mlo.run("render", str(spec), "--output", "again", code=64).stderr
    mlo.run("render", str(spec), "--output", "again", "--force")
    assert (mlo.folder / "again" / "notes.txt").read_text() == "mine"
    assert (mlo.folder / "again" / "chart" / "Chart.yaml").is_file()


@contextmanager
def under_load(endpoint: str) -> Iterator[list[str]]:
    """Requests from four threads, one after the other, while the block runs; yields what went wrong."""
    body = json.dumps(
        {"inputs": [{"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [0.5] * 64}]}
    ).encode()
    wrong: list[str] = []
    answered = [0]
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            request = urllib.request.Request(f"{endpoint}/v2/models/digits/infer", body)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    json.load(answer)
                answered[0] += 1
            except OSError as error:
                wrong.append(repr(error))
            time.sleep(0.005)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert answered[0] > 50


def test_a_changed_spec_replaces_the_server_without_a_failed_request(
    mlo: Mlo, spec: Path, applied: dict[str, Any]
) -> None:
    before = status(mlo)["revision"]
    with under_load(applied["endpoint"]) as wrong:
        mlo.run("apply", str(asked_from(spec, "reading")), "--yes")
        mlo.run("apply", str(spec), "--yes")
    assert wrong == []
    after = status(mlo)
    assert after["revision"] == before + 2
    assert after["endpoint"] == applied["endpoint"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "p99_latency: 20ms, throughput: 200/s, enforce: false",
            "p99_latency: 1us, throughput: 200/s",
            "over the limit",
        ),
        ("max_abs_error: {fp32: 1.0e-4}", "max_abs_error: {fp32: 1.0e-12, int8: 1.0e-12}", "verification failed"),
        ("factory: digits_model:DigitsNet", "factory: digits_model:Missing", "Missing"),
    ],
)
def test_a_failed_apply_leaves_the_last_good_deployment_serving(
    mlo: Mlo, spec: Path, applied: dict[str, Any], old: str, new: str, told: str
) -> None:
    before = status(mlo)
    # Another service level has to be measured anew, and one candidate is enough to miss it.
    wanted = quick(spec, old, new) if "p99" in new else changed(spec, old, new)
    done = mlo.run("apply", str(wanted), "--yes", code=1)
    assert told in " ".join((done.stdout + done.stderr).split())
    assert f"digits is unchanged: revision {before['revision']}" in done.stderr
    assert status(mlo) == before
    mlo.run("predict", "digits", "--input", "zero.json")


@contextmanager
def a_port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_release_that_fails_leaves_the_former_one_serving(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    before = status(mlo)
    with a_port_in_use() as port:
        wanted = changed(spec, "deploy: {target: local}", f"deploy: {{target: local, port: {port}}}")
        told = mlo.run("apply", str(wanted), "--yes", code=1).stderr
    assert f"port {port} of 127.0.0.1 cannot be used" in told
    assert f"digits is unchanged: revision {before['revision']}" in told
    assert status(mlo) == before
    mlo.run("predict", "digits", "--input", "zero.json")


def test_a_first_release_that_died_after_its_switch_survives_a_second_that_fails(
    mlo: Mlo, spec: Path, applied: dict[str, Any]
) -> None:
    first = changed(spec, "name: digits", "name: first").rename(spec.with_name("first.yaml"))
    process = mlo.start("apply", str(first), "--yes", MLO_CRASH_AT="release.switched")
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    with a_port_in_use() as port:
        first.write_text(
            first.read_text().replace("deploy: {target: local}", f"deploy: {{target: local, port: {port}}}")
        )
        mlo.run("apply", str(first), "--yes", code=1)
    assert mlo.json("status", "first", "--json")["deployments"][0]["health"] == "healthy"
    mlo.run("predict", "first", "--input", "zero.json")
    mlo.run("destroy", "first", "--yes")


def test_drift_is_detected_and_repaired(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    (supervisor,) = processes_of(mlo, "orchestrator.targets.local.supervisor")
    supervisor.kill()
    supervisor.wait(30)
    assert status(mlo, code=1)["health"] == "stopped"
    assert "drift:" in mlo.run("plan", str(spec)).stdout
    mlo.run("apply", str(spec), "--yes")
    assert status(mlo)["endpoint"] == applied["endpoint"]
    mlo.run("predict", "digits", "--input", "zero.json")


@pytest.mark.parametrize("point", ["release.intent-written", "release.started", "release.switched", "release.recorded"])
def test_an_apply_killed_while_it_deploys_is_finished_by_the_next(
    mlo: Mlo, spec: Path, applied: dict[str, Any], point: str
) -> None:
    wanted = asked_from(spec, point.rpartition(".")[2])
    with under_load(applied["endpoint"]) as wrong:
        process = mlo.start("apply", str(wanted), "--yes", MLO_CRASH_AT=point)
        process.communicate(timeout=200)
        assert process.returncode == -signal.SIGKILL
        mlo.run("apply", str(wanted), "--yes")
    assert wrong == []
    assert "Plan: nothing to do." in mlo.run("plan", str(wanted)).stdout
    # A server and the guard beside it; former revisions take a moment to finish what they have begun.
    until = time.monotonic() + 30
    while len(processes_of(mlo, "orchestrator.server")) > 2:
        assert time.monotonic() < until, "a candidate was left behind"
        time.sleep(0.2)


def test_eight_applies_at_once_compute_each_key_once(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    # The dimensions are part of every step's key: nothing of this is cached.
    wanted = quick(spec, "batch: {min: 1, max: 64}", "batch: {min: 1, max: 48}")
    processes = [mlo.start("apply", str(wanted), "--yes", "--json") for _ in range(8)]
    results = [process.communicate(timeout=280) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, [err for _, err in results]
    revisions = {json.loads(out)["deployments"][0]["revision"] for out, _ in results}
    assert len(revisions) == 1
    started = re.findall(r"^(\S+): started", "\n".join(err for _, err in results), re.MULTILINE)
    computed = [step for step in started if step not in ("deploy", "check")]
    assert {"import", "convert.onnx", "benchmark.runtime", "render"} <= set(computed)
    assert sorted(computed) == sorted(set(computed)), "a key was computed twice"


def test_the_log_can_be_read(mlo: Mlo, applied: dict[str, Any]) -> None:
    assert mlo.run("logs", "digits").stdout


def test_destroying_stops_every_process(mlo: Mlo, spec: Path, applied: dict[str, Any]) -> None:
    mlo.run("destroy", "digits", "--yes")
    assert mlo.json("status", "--json")["deployments"] == []
    assert processes_of(mlo) == []
    assert "freed" in mlo.run("gc").stdout
    again = mlo.json("apply", str(quick(spec)), "--yes", "--json")["deployments"][0]
    assert again["revision"] == 1
