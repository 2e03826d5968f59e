"""TensorFlow Serving from an image of the Docker Engine: a stand-in for the image, and the engine itself."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.measured_server import MeasuredServer
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

_BASE = "python:3.11-slim-bookworm"
_TAG = f"tensorflow/serving:stand-in-{os.getpid()}"
_BALLAST = 80 * 2**20
_PROGRAM = Path(__file__).with_name("stand_in_image_server.py")


def _docker(*argv: str) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"docker {' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker on the PATH")
    if shutil.which("tensorflow_model_server") is not None:
        pytest.skip("tensorflow_model_server is on the PATH, which comes first")
    if subprocess.run(["docker", "image", "inspect", _BASE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no Docker Engine answers, or it has no image {_BASE}")
    context = tmp_path_factory.mktemp("image")
    shutil.copyfile(_PROGRAM, context / "tensorflow_model_server")
    (context / "tensorflow_model_server").chmod(0o755)
    (context / "Dockerfile").write_text(
        f"FROM {_BASE}\nCOPY tensorflow_model_server /usr/bin/tensorflow_model_server\n"
    )
    _docker("build", "--tag", _TAG, str(context))
    yield _TAG
    _docker("rmi", "--force", _TAG)


@pytest.fixture
def settings(settings_for: Callable[..., ServingSettings]) -> ServingSettings:
    return settings_for("tensorflow-serving", memory=2**28)


@pytest.fixture
def measured(
    image: str, settings: ServingSettings, placeholder_variant: Path, tmp_path: Path
) -> Iterator[MeasuredServer]:
    server = MeasuredServer(
        TENSORFLOW_SERVING, settings, placeholder_variant, cpu_share(1.0), memory=settings.memory,
        folder=tmp_path / "measured",
    )  # fmt: skip
    with server:
        yield server


def _request(value: float) -> tuple[bytes, dict[str, str]]:
    body, headers = TENSORFLOW_SERVING.encode({"x": np.full((1, 3), value, np.float32)}, "json")
    return body, dict(headers)


def _watch(server: MeasuredServer) -> None:
    for _ in range(600):
        server.check()
        time.sleep(0.05)


def _gone(container: str) -> bool:
    return not _docker("ps", "--quiet", "--filter", f"id={container}", "--filter", "status=running")


def test_an_image_that_the_engine_has_is_measured_like_any_server(measured: MeasuredServer, tmp_path: Path) -> None:
    assert measured.wait_ready(60.0) > 0
    assert measured.first_request(*_request(1.5)).seconds > 0
    time.sleep(1.0)  # the watch looks for processes twice a second
    assert measured.peak > _BALLAST, "the memory of the server, not that of the command that runs its container"
    before = measured.cpu_seconds()
    for _ in range(200):
        measured.first_request(*_request(1.5))
    assert measured.cpu_seconds() > before
    container = (tmp_path / "measured" / "scratch" / "container").read_text()
    assert _docker("inspect", "--format", "{{.HostConfig.CpusetCpus}}", container) == str(cpu_share(1.0).cpus[0])
    measured.stop()
    assert _gone(container)


def test_a_server_above_its_memory_limit_is_reported_as_such(measured: MeasuredServer) -> None:
    measured.wait_ready(60.0)
    with contextlib.suppress(MeasureError):  # the connection breaks before the process is seen to end
        measured.first_request(*_request(-1.0))
    with pytest.raises(MeasureError, match="ran out of memory: its container is limited to 256 MiB") as failure:
        _watch(measured)
    assert failure.value.fate == "out of memory"


def test_a_container_does_not_outlive_its_parent(
    image: str, settings: ServingSettings, placeholder_variant: Path, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / 'a, "b"', tmp_path / "scratch"
    scratch.mkdir()
    TENSORFLOW_SERVING.write_folder(settings, placeholder_variant, folder)
    launch = TENSORFLOW_SERVING.launch(folder, port=18502, scratch=scratch, threads=1)
    process = psutil.Popen(launch.argv, cwd=launch.cwd, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
                           stdin=subprocess.DEVNULL)  # fmt: skip
    until = time.monotonic() + 60
    while not _answers(18502):
        assert time.monotonic() < until
        time.sleep(0.05)
    container = (scratch / "container").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    while not _gone(container):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_container_that_crashed_comes_back_on_this_machine(
    image: str, settings: ServingSettings, placeholder_variant: Path, tmp_path: Path
) -> None:
    assert image
    TENSORFLOW_SERVING.write_folder(settings, placeholder_variant, tmp_path / "serving")
    target = LocalTarget(tmp_path / "deployment")
    try:
        target.prepare()
        target.start(Release(1, tmp_path / "serving", "tensorflow-serving", "tiny-model", 1, 60))
        target.switch(1)
        (file,) = (tmp_path / "deployment").glob("scratch/*/container")
        crashed = file.read_text()
        _docker("kill", crashed)
        until = time.monotonic() + 60
        while target.observe().health != "healthy" or not file.exists() or file.read_text() in {"", crashed}:
            assert time.monotonic() < until, "".join(target.logs())
            time.sleep(0.05)
    finally:
        target.stop()
    assert _gone(file.read_text() if file.exists() else crashed)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", TENSORFLOW_SERVING.ready_path("tiny-model"))
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
