"""Images, built and run for real with nothing to write to."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.backends.onnxruntime.backend import ONNXRUNTIME
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.versions import installed_closure

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e, pytest.mark.timeout(900)]

_TAG = "mlo-test/digits:rendered"
_TFS_BASE = "mlo-test/tensorflow-serving:stand-in"
_TFS_PROGRAM = Path(__file__).parents[1] / "backends" / "stand_in_image_server.py"


def _docker(*argv: str, seconds: int = 120) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"docker {' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def engine() -> None:
    if shutil.which("docker") is None:
        pytest.skip("there is no docker on the PATH")
    if subprocess.run(["docker", "version"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("no Docker Engine answers")


@contextlib.contextmanager
def _running(folder: Path, port: int) -> Iterator[tuple[str, int]]:
    """A container of what was rendered, as its compose file would run it, and the port on loopback that leads to `port`."""
    _docker("build", "--tag", _TAG, str(folder / "docker"), seconds=840)
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    try:
        name = _docker(
            "run", "--detach", "--read-only", "--tmpfs", service["tmpfs"][0], "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges:true", "--memory", str(service["mem_limit"]),
            "--cpus", str(service["cpus"]), "--pids-limit", str(service["pids_limit"]),
            "--publish", f"127.0.0.1::{port}", _TAG,
        )  # fmt: skip
        try:
            yield name, int(_docker("port", name, f"{port}/tcp").rpartition(":")[2])
        finally:
            _docker("rm", "--force", name)
    finally:
        _docker("rmi", "--force", _TAG)


@pytest.fixture
def container(engine: None, render_to: Callable[..., Path], onnx_model: bytes) -> Iterator[tuple[str, int]]:
    folder = render_to(
        "onnxruntime", model=onnx_model, tools=installed_closure(ONNXRUNTIME.tools), registry=None, memory=2**30
    )
    with _running(folder, 8080) as running:
        yield running


@pytest.fixture
def tensorflow_serving(engine: None, render_to: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[str, int]]:
    context = tmp_path / "base"
    context.mkdir()
    shutil.copyfile(_TFS_PROGRAM, context / "tensorflow_model_server")
    (context / "tensorflow_model_server").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM python:3.11-slim-bookworm\nCOPY tensorflow_model_server /usr/bin/tensorflow_model_server\n"
    )
    _docker("build", "--tag", _TFS_BASE, str(context), seconds=840)
    try:
        with _running(render_to("tensorflow-serving", base=_TFS_BASE, registry=None), 8501) as running:
            yield running
    finally:
        _docker("rmi", "--force", _TFS_BASE)


@pytest.fixture
def onnx_model() -> bytes:
    """y = x + x"""
    import onnx
    from onnx import TensorProto, helper

    def tensor(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3])

    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [tensor("x")], [tensor("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def test_it_serves_unprivileged_from_a_read_only_root(container: tuple[str, int]) -> None:
    name, port = container
    until = time.monotonic() + 120
    while _ask(port, "GET", "/v2/health/ready")[0] != 200:
        assert time.monotonic() < until, _docker("logs", name)
        time.sleep(0.1)
    body = b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
    status, answer = _ask(port, "POST", "/v2/models/digits/infer", body)
    assert status == 200
    assert json.loads(answer)["outputs"][0]["data"] == [2.0, 4.0, 6.0]
    while _docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
        assert time.monotonic() < until, "the image's own health check is not content"
        time.sleep(0.2)
    assert _docker("exec", name, "id", "-u") == "65532"
    _docker("stop", "--time", "30", name)
    assert _docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


def test_the_image_of_tensorflow_serving_is_healthy_and_stops_at_sigterm(
    tensorflow_serving: tuple[str, int],
) -> None:
    name, port = tensorflow_serving
    until = time.monotonic() + 120
    while _ask(port, "GET", TENSORFLOW_SERVING.ready_path("digits"))[0] != 200:
        assert time.monotonic() < until, _docker("logs", name)
        time.sleep(0.1)
    status, answer = _ask(port, "POST", TENSORFLOW_SERVING.infer_path("digits"), b'{"inputs": {"x": [[1, 2, 3]]}}')
    assert (status, json.loads(answer)) == (200, {"outputs": [[2, 4, 6]]})
    while _docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
        assert time.monotonic() < until, "the image's own health check is not content"
        time.sleep(0.2)
    began = time.monotonic()
    _docker("stop", "--time", "60", name)
    assert time.monotonic() - began < 30, "SIGTERM reached it"
    assert _docker("inspect", "--format", "{{.State.ExitCode}}", name) == "143"


def _ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body; status 0 while nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""
