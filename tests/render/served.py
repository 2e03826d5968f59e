"""A small model, rendered by the render step and served by the server that its configuration is for."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from orchestrator.artifacts.imported import SAMPLES_FILE
from orchestrator.backends.table import serving_backend
from orchestrator.spec.signature import Signature, Tensor
from tests.artifacts.made import imported

__all__ = ["READY", "ROW", "SIGNATURE", "Served", "negative", "samples", "serving"]

READY = "/v2/health/ready"
ROW = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'
SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 64)}, "batch"
)
_ROOT = Path(__file__).parents[2]


def negative() -> bytes:
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


def samples(folder: Path) -> Path:
    """The import step's output for the golden requests."""
    folder.mkdir()
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.savez(folder / SAMPLES_FILE, x=x)
    np.savez(folder / "baseline.npz", y=-x)
    imported(SIGNATURE, samples="random").write(folder)
    return folder


@dataclass(frozen=True)
class Served:
    """A running server; `run` runs a program and returns what it prints."""

    folder: Path
    port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    run: Callable[..., str]
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def status(self, *options: str, path: str = "/v2/models/digits/infer", body: str | None = ROW) -> int:
        """What curl says of a request."""
        data = () if body is None else ("--data-binary", body)
        form = ("--silent", "--output", os.devnull, "--write-out", "%{http_code}", "--max-time", "30")
        return int(self.run("curl", *form, *options, *data, self.url + path))

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def serving(folder: Path, scratch: Path, run: Callable[..., str], *, scheme: str = "http") -> Iterator[Served]:
    """The server of what the render step wrote into `folder`, ready."""
    with socket.socket() as one, socket.socket() as two:
        ports = []
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
    launch = serving_backend("onnxruntime").launch(folder / "serving", port=ports[0], scratch=scratch, threads=1)
    argv = [*launch.argv, *(() if launch.grpc_port is None else (launch.grpc_port, str(ports[1])))]
    log = scratch / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(argv, env={**os.environ, **launch.env}, cwd=_ROOT, stderr=output)
    served = Served(folder, ports[0], ports[1], process, run, scheme)
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(served):
            if time.monotonic() > deadline or process.poll() is not None:
                raise AssertionError(log.read_text())
            time.sleep(0.05)
        yield served
    finally:
        with suppress(ProcessLookupError):
            served.stop()


def _is_ready(served: Served) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", served.port)):
            return False
    return served.status("--insecure", path=READY, body=None) == 200
