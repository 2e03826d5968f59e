"""Servers started with rendered configurations obey what `serving:` of the spec sets; asked by clients of others."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.artifacts.imported import SAMPLES_FILE
from orchestrator.backends.table import serving_backend
from orchestrator.errors import DeployFailed
from orchestrator.release.golden import check_golden
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.client import infer
from tests.artifacts.made import imported

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]

Render = Callable[..., Path]
Run = Callable[..., str]

_ROOT = Path(__file__).parents[2]
_SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 64)}, "batch"
)
_ROW = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'


def _model() -> bytes:
    """y = -x."""
    shape = ["batch", 3]
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "negative",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = made.SerializeToString()
    onnx.checker.check_model(made)
    return content


def _samples(folder: Path) -> Path:
    """The import step's output for the golden requests."""
    folder.mkdir()
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.savez(folder / SAMPLES_FILE, x=x)
    np.savez(folder / "baseline.npz", y=-x)
    imported(_SIGNATURE, samples="random").write(folder)
    return folder


@dataclass(frozen=True)
class _Served:
    folder: Path
    port: int
    grpc_port: int
    run: Run

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def status(self, *options: str, path: str = "/v2/models/digits/infer", body: str | None = _ROW) -> int:
        """What curl says of a request."""
        data = () if body is None else ("--data-binary", body)
        form = ("--silent", "--output", os.devnull, "--write-out", "%{http_code}", "--max-time", "30")
        return int(self.run("curl", *form, *options, *data, self.url + path))


@pytest.fixture
def serve(render_to: Render, run_tool: Run, tmp_path: Path) -> Iterator[Callable[..., _Served]]:
    """`serve(limits={...})`: a server that runs what the render step wrote."""
    running: list[subprocess.Popen[bytes]] = []

    def start(**changes: object) -> _Served:
        folder = render_to("onnxruntime", model=_model(), **changes)
        with socket.socket() as one, socket.socket() as two:
            ports = []
            for each in (one, two):
                each.bind(("127.0.0.1", 0))
                ports.append(each.getsockname()[1])
        server = serving_backend("onnxruntime")
        launch = server.launch(folder / "serving", port=ports[0], scratch=tmp_path, threads=1)
        argv = [*launch.argv, *(() if launch.grpc_port is None else (launch.grpc_port, str(ports[1])))]
        with (tmp_path / "log.txt").open("wb") as log:
            running.append(subprocess.Popen(argv, env={**os.environ, **launch.env}, cwd=_ROOT, stderr=log))
        served = _Served(folder, ports[0], ports[1], run_tool)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and running[-1].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ports[0])) == 0 and served.status(path=READY, body=None) == 200:
                    return served
            time.sleep(0.05)
        raise AssertionError((tmp_path / "log.txt").read_text())

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


READY = "/v2/health/ready"


def test_grpc_answers_where_the_spec_asks_for_it(serve: Callable[..., _Served]) -> None:
    served = serve(grpc=True)
    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(service="digits"), timeout=30, wait_for_ready=True)
    assert answer.status == health.HealthCheckResponse.SERVING
    assert served.status() == 200


def test_a_body_above_the_limit_is_refused_and_the_golden_requests_fit(
    serve: Callable[..., _Served], tmp_path: Path
) -> None:
    served = serve(limits={"max_body": 1024})
    assert served.status() == 200
    assert served.status(body=_ROW + " " * 1024) == 413
    backend = serving_backend("onnxruntime")
    limit = backend.max_body(served.folder / "serving")
    assert limit == 1024
    # 64 rows of 12 bytes and what is said of them are more than 1 KiB, as are the 100 of the other request.
    golden = check_golden(served.url, backend, "digits", _samples(tmp_path / "i"), {}, precision="fp32", max_body=limit)
    assert golden.rows == 64
    x = np.ones((100, 3), np.float32)
    answer = infer(served.url, backend, "digits", {"x": x}, signature=_SIGNATURE, max_body=limit)
    np.testing.assert_array_equal(answer["y"], -x)


def test_more_connections_than_allowed_are_closed(serve: Callable[..., _Served]) -> None:
    served = serve(limits={"max_connections": 16})
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(17)]
    try:
        ended = 0
        for each in held:
            each.settimeout(0.5)
            try:
                ended += each.recv(1) == b""
            except TimeoutError:
                continue
        assert ended == 1
    finally:
        for each in held:
            each.close()


def test_a_body_that_does_not_arrive_in_time_is_given_up(serve: Callable[..., _Served]) -> None:
    served = serve(limits={"request_timeout": 0.2})
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


_TOKEN = "one-of-the-tokens"


@pytest.fixture
def token_file() -> Iterator[Path]:
    """A file with two tokens, at a place that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder) / "token"
        file.write_text(f"{_TOKEN}\nthe-other-token-0\n")
        yield file


def test_requests_need_a_token_and_probes_none(serve: Callable[..., _Served], token_file: Path, tmp_path: Path) -> None:
    served = serve(grpc=True, auth={"token_file": str(token_file), "secret": "digits-token"})
    bearer = ("--header", f"Authorization: Bearer {_TOKEN}")
    assert served.status() == 401
    assert served.status("--header", "Authorization: Bearer none-of-the-tokens") == 401
    assert served.status(*bearer) == 200
    assert served.status(path="/metrics", body=None) == 401
    assert served.status(*bearer, path="/metrics", body=None) == 200
    for probed in (READY, "/v2/health/live"):
        assert served.status(path=probed, body=None) == 200

    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(), timeout=30, wait_for_ready=True)
        assert answer.status == health.HealthCheckResponse.SERVING
        ask = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert b"mlo" in ask(b"", timeout=30, metadata=[("authorization", f"Bearer {_TOKEN}")])

    backend = serving_backend("onnxruntime")
    found = backend.token_file(served.folder / "serving")
    assert found == token_file
    golden = check_golden(
        served.url, backend, "digits", _samples(tmp_path / "i"), {}, precision="fp32", token_file=found
    )
    assert golden.rows == 64
    x = {"x": np.ones((1, 3), np.float32)}
    with pytest.raises(DeployFailed) as without:
        infer(served.url, backend, "digits", x, signature=_SIGNATURE)
    assert without.value.diagnostics[0].code == "E611"
    token_file.write_text("")
    with pytest.raises(DeployFailed) as none:
        infer(served.url, backend, "digits", x, signature=_SIGNATURE, token_file=found)
    assert none.value.diagnostics[0].code == "E625"


def test_pages_of_the_allowed_origins_may_ask_and_read(serve: Callable[..., _Served], token_file: Path) -> None:
    auth = {"token_file": str(token_file), "secret": "digits-token"}
    served = serve(cors_origins=["https://app.example.com"], auth=auth)

    def ask(origin: str, *options: str) -> tuple[str, dict[str, str]]:
        """The status and the headers, as curl prints them."""
        url = f"{served.url}/v2/models/digits/infer"
        form = ("--silent", "--max-time", "30", "--output", os.devnull, "--dump-header", "-")
        first, *lines = served.run("curl", *form, "--header", f"Origin: {origin}", *options, url).strip().splitlines()
        return first.split()[1], {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    before = ("--request", "OPTIONS", "--header", "Access-Control-Request-Method: POST")
    body = ("--header", f"Authorization: Bearer {_TOKEN}", "--data-binary", _ROW)
    status, headers = ask("https://app.example.com", *before)
    assert (status, headers["access-control-allow-origin"]) == ("200", "https://app.example.com")
    assert "POST" in headers["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= set(headers["access-control-allow-headers"].split(", "))
    status, headers = ask("https://app.example.com", *body)
    assert (status, headers["access-control-allow-origin"]) == ("200", "https://app.example.com")
    assert headers["vary"] == "origin"
    status, headers = ask("https://app.example.com", "--data-binary", _ROW)
    assert (status, headers["access-control-allow-origin"]) == ("401", "https://app.example.com"), "the page sees why"
    for options in (before, body):
        _, headers = ask("https://app.example.com.evil.org", *options)
        assert not [name for name in headers if name.startswith("access-control-")]
    assert ask("https://app.example.com.evil.org", *before)[0] == "401"


def test_any_page_may_ask_where_all_origins_are_allowed(serve: Callable[..., _Served]) -> None:
    served = serve(cors_origins=["*"])
    answer = served.run("curl", "--silent", "--include", "--header", "Origin: null", f"{served.url}/v2")
    assert "access-control-allow-origin: *" in answer
    assert "access-control" not in served.run("curl", "--silent", "--include", f"{served.url}/v2")
