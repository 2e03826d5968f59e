"""A stand-in for TensorFlow Serving on the PATH, started from mlo's folders: asked, warmed up, moved, stopped."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.versions import (
    ServedVersions,
    apply_settings,
    move_label,
    rendered_version,
    served_versions,
    version_folder,
)
from orchestrator.release.golden import check_golden
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.client import infer
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Release
from tests.artifacts.made import imported as imported_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SettingsFor = Callable[..., ServingSettings]
SavedModel = Callable[[str], Path]

_NAME = "tiny-model"
_PATIENCE = 90.0
_WIDE = Signature(
    (Tensor("x", "float32", ("batch", 3)), Tensor("k", "int64", ("batch",)), Tensor("text", "string", ("batch",))),
    (
        Tensor("inverse", "float32", ("batch", 3)),
        Tensor("double", "float64", ("batch", 3)),
        Tensor("next", "int64", ("batch",)),
        Tensor("small", "int8", ("batch",)),
        Tensor("even", "bool", ("batch",)),
        Tensor("greeting", "string", ("batch",)),
        Tensor("raw_bytes", "string", ("batch",)),
    ),
    {"batch": (1, 64)},
    "batch",
)


class Server:
    """A process that was launched for a folder."""

    def __init__(self, folder: Path, scratch: Path, path: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        scratch.mkdir(parents=True)
        launch = TENSORFLOW_SERVING.launch(folder, port=self.port, scratch=scratch, threads=1)
        paths = os.pathsep.join(p for p in (str(Path.cwd()), os.environ.get("PYTHONPATH", "")) if p)
        self._log = scratch.parent / f"{scratch.name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                launch.argv,
                cwd=launch.cwd,
                env={**os.environ, "PYTHONPATH": paths, "PATH": path, **launch.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"it ended: {self.log()}"
            try:
                return self.ask("GET", TENSORFLOW_SERVING.ready_path(_NAME))[0] == 200
            except ConnectionError:
                return False

        self.eventually(ready)

    def eventually(self, true: Callable[[], bool]) -> None:
        until = time.monotonic() + _PATIENCE
        while not true():
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)

    def times(self, where: str = "labels/stable") -> float | None:
        """What the version there multiplies by; None where nothing answers."""
        body, _ = TENSORFLOW_SERVING.encode({"x": np.ones((1, 3), np.float32)}, "json")
        status, answer = self.ask("POST", f"/v1/models/{_NAME}/{where}:predict", body)
        return json.loads(answer)["outputs"][0][0] if status == 200 else None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> SavedModel:
    """`saved_model("times-2")`: a variant's folder."""
    made: dict[str, Path] = {}

    def build(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            script = Path(__file__).with_name("build_saved_model.py")
            command = [sys.executable, "-W", "ignore", str(script), kind, str(made[kind] / "saved_model")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
        return made[kind]

    return build


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with the stand-in on it."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "tensorflow_model_server"
    script = Path(__file__).with_name("stand_in_tensorflow_model_server.py")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -W ignore "{script}" "$@"\n')
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def start(tmp_path: Path, path: str) -> Iterator[Callable[[Path], Server]]:
    started: list[Server] = []

    def run(folder: Path) -> Server:
        # Longer than the path of a Unix socket may be.
        started.append(Server(folder, tmp_path / ("long" * 30) / f"scratch-{len(started)}", path))
        return started[-1]

    yield run
    for server in started:
        server.stop()


@pytest.fixture
def rendered(settings_for: SettingsFor, saved_model: SavedModel, tmp_path: Path) -> Callable[..., Path]:
    """`rendered("times-2")`: a serving folder as `render` writes it."""

    def write(kind: str, **changes: object) -> Path:
        folder = tmp_path / f"rendered {kind}"
        np.savez(tmp_path / "samples.npz", x=np.ones((5, 3), np.float32), k=np.arange(5), text=np.array(["ä"] * 5))
        settings = settings_for("tensorflow-serving", samples=tmp_path / "samples.npz")
        if kind == "wide":
            settings = replace(settings, signature=_WIDE)
        TENSORFLOW_SERVING.write_folder(replace(settings, **changes), saved_model(kind), folder)  # type: ignore[arg-type]
        return folder

    return write


def test_a_rendered_folder_is_served_warm_and_ends_at_sigterm(
    rendered: Callable[..., Path], start: Callable[[Path], Server]
) -> None:
    folder = rendered("times-2")
    before = sorted(folder.rglob("*"))
    server = start(folder)
    server.wait_ready()
    assert "Number of warmup records read: 4." in server.log()
    assert server.times() == server.times("versions/1") == 2.0
    assert server.times("labels/canary") is None
    assert server.ask("GET", f"/v1/models/{_NAME}")[0] == 200
    status, metrics = server.ask("GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert f'request_count{{model_name="{_NAME}",status="OK"}}' in metrics.decode()

    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == -signal.SIGTERM
    assert sorted(folder.rglob("*")) == before, "it writes to its scratch folder alone"


def test_every_kind_of_number_and_text_comes_back_as_the_model_returns_it(
    rendered: Callable[..., Path], start: Callable[[Path], Server]
) -> None:
    server = start(rendered("wide"))
    server.wait_ready()
    x = np.array([[1.0, 0.0, -0.0], [3.0, np.nan, np.inf]], np.float32)
    inputs = {"x": x, "k": np.array([7, 2**62]), "text": np.array(["grüße", 'q"\\\n'])}
    body, _ = TENSORFLOW_SERVING.encode(inputs, "json")
    status, answer = server.ask("POST", TENSORFLOW_SERVING.infer_path(_NAME), body)
    assert status == 200, answer
    outputs = TENSORFLOW_SERVING.decode(answer, {}, _WIDE)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(outputs["inverse"], np.float32(1) / x)
    np.testing.assert_array_equal(outputs["double"], x.astype(np.float64) / 3.0)
    assert {name: array.dtype.name for name, array in outputs.items() if array.dtype.kind != "U"} == {
        "inverse": "float32", "double": "float64", "next": "int64", "small": "int8", "even": "bool",
    }  # fmt: skip
    assert outputs["next"].tolist() == [8, 2**62 + 1]
    assert outputs["even"].tolist() == [False, True]
    assert outputs["greeting"].tolist() == ["hello grüße", 'hello q"\\\n']
    assert outputs["raw_bytes"].tolist() == ["grüße", 'q"\\\n']


def test_a_model_that_fails_on_its_samples_is_reported_at_its_start(
    rendered: Callable[..., Path], start: Callable[[Path], Server]
) -> None:
    server = start(rendered("failing"))
    assert server.process.wait(timeout=_PATIENCE) == 1
    assert "Failed to start server" in server.log()


class _Versions:
    """A folder of versions, filled as a target fills it: copied beside, renamed in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, rendered: Path, version: int) -> bool:
        place = version_folder(self.folder, _NAME, version)
        place.parent.mkdir(parents=True, exist_ok=True)
        arriving = place.with_name(f".tmp-{version}")
        subprocess.run(["cp", "-r", str(rendered_version(rendered)), str(arriving)], check=True)
        arriving.rename(place)
        return apply_settings(self.folder, rendered)

    def remove(self, version: int) -> None:
        subprocess.run(["rm", "-r", str(version_folder(self.folder, _NAME, version))], check=True)


def test_a_new_version_is_served_and_rolled_back_without_a_restart(
    rendered: Callable[..., Path], start: Callable[[Path], Server], tmp_path: Path
) -> None:
    versions = _Versions(tmp_path / "a folder, of 'versions'")
    assert not versions.add(rendered("times-2"), 3)
    move_label(versions.folder, 3)
    server = start(versions.folder)
    server.wait_ready()
    assert server.times() == 2.0

    # Nobody waits for the server to load it before the label moves.
    assert not versions.add(rendered("times-5"), 4)
    assert move_label(versions.folder, 4) == ServedVersions(_NAME, (3, 4), {"stable": 4, "previous": 3})
    assert server.times() == 2.0, "until it is loaded, the former one answers"
    server.eventually(lambda: server.times() == 5.0)
    assert server.times("labels/previous") == 2.0

    assert move_label(versions.folder, 3).labels == {"stable": 3, "previous": 4}
    server.eventually(lambda: server.times() == 2.0)
    assert server.times("labels/previous") == 5.0

    # After a rollback the live version stays, though it is not among the newest two.
    versions.add(rendered("times-7"), 5)
    move_label(versions.folder, 5, kept=(3, 5))
    versions.remove(4)
    server.eventually(lambda: server.times() == 7.0)
    server.eventually(lambda: server.times("versions/4") is None)
    assert server.times("labels/previous") == 2.0
    assert server.process.poll() is None
    found = served_versions(versions.folder)
    assert found is not None
    assert (found.versions, found.live) == ((3, 5), 5)


def test_a_version_that_cannot_be_loaded_changes_nothing_for_clients(
    rendered: Callable[..., Path], start: Callable[[Path], Server], tmp_path: Path
) -> None:
    versions = _Versions(tmp_path / "versions")
    versions.add(rendered("times-2"), 1)
    move_label(versions.folder, 1)
    server = start(versions.folder)
    server.wait_ready()
    versions.add(rendered("failing"), 2)
    move_label(versions.folder, 2)
    server.eventually(lambda: "which is not currently available for inference" in server.log())
    assert server.times() == 2.0


def test_the_local_target_deploys_verifies_and_replaces_it(
    rendered: Callable[..., Path], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    target = LocalTarget(tmp_path / "deployments" / _NAME)
    endpoint = target.prepare()
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    try:
        for revision, factor in ((1, 2), (2, 5)):
            serving = rendered(f"times-{factor}")
            imported = tmp_path / f"import-{revision}"
            imported.mkdir()
            signature = json.loads((serving / "server.json").read_bytes())["model"]["signature"]
            np.savez(imported / "samples.npz", x=x)
            np.savez(imported / "baseline.npz", y=x * np.float32(factor))
            imported_model(Signature.from_json(signature), samples="random").write(imported)
            started = target.start(Release(revision, serving, "tensorflow-serving", _NAME, 1, 120))
            assert started.url is not None
            report = check_golden(started.url, TENSORFLOW_SERVING, _NAME, imported, {}, precision="fp32")
            assert report.rows == 20
            target.switch(revision)
            answer = infer(endpoint, TENSORFLOW_SERVING, _NAME, {"x": x}, signature=Signature.from_json(signature))
            np.testing.assert_array_equal(answer["y"], x * np.float32(factor))
    finally:
        target.stop()
