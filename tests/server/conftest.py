"""Small ONNX models and the real server around them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

LABELS = {"variant": "onnx-fp32", "model_digest": "m" * 64, "decision_digest": "d" * 64}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server process that has bound its port."""

    process: subprocess.Popen[str]
    reader: threading.Thread
    port: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def infer(self, document: Any, model: str = "m", headers: Mapping[str, str] | None = None) -> Answer:
        """Post a request as JSON."""
        return self.ask("POST", f"/v2/models/{model}/infer", json.dumps(document), headers)

    def wait_ready(self) -> None:
        """Until the server says that it is ready, or has ended."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.raw}")
            if self.ask("GET", "/v2/health/ready").status == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"not ready: {self.raw}")

    def wait_for_log(self, message: str) -> dict[str, Any]:
        """The first log line with this message."""
        return self.wait_for_log_starting(message)

    def wait_for_log_starting(self, message: str) -> dict[str, Any]:
        """The first log line whose message begins like this."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in list(self.log):
                if line["message"].startswith(message):
                    return line
            time.sleep(0.01)
        raise AssertionError(f"{message!r} was not logged: {self.raw}")

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def wait_end(self) -> int:
        """The exit code, once the process has ended and all of its log is read."""
        code = self.process.wait(60)
        self.reader.join(60)
        return code


Start = Callable[..., Running]


def signature(
    inputs: Mapping[str, tuple[str, list[int | str]]],
    outputs: Mapping[str, tuple[str, list[int | str]]],
    dims: Mapping[str, list[int]],
    batch: str | None = "batch",
) -> dict[str, Any]:
    """Signature JSON as the compiler writes it."""

    def tensors(table: Mapping[str, tuple[str, list[int | str]]]) -> list[dict[str, Any]]:
        return [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in table.items()]

    return {"inputs": tensors(inputs), "outputs": tensors(outputs), "dims": dict(dims), "batch": batch}


_ONNX_TYPES = {
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    **{f"int{bits}": getattr(TensorProto, f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(TensorProto, f"UINT{bits}") for bits in (8, 16, 32, 64)},
}


def write_server(
    folder: Path,
    nodes: list[Any],
    signature_json: dict[str, Any],
    initializers: list[Any] | None = None,
    **settings: Any,
) -> Path:
    """A folder with a model of `nodes` and its server.json; returns the latter's path."""

    def infos(key: str) -> list[Any]:
        return [
            helper.make_tensor_value_info(t["name"], _ONNX_TYPES[t["dtype"]], t["shape"]) for t in signature_json[key]
        ]

    graph = helper.make_graph(nodes, "g", infos("inputs"), infos("outputs"), initializers or [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    document: dict[str, Any] = {
        "format": 2,
        "model": {
            "name": "m",
            "version": "1",
            "file": "model.onnx",
            "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
            "signature": signature_json,
            "labels": LABELS,
        },
        "threads": 1,
        "instances": 1,
        "provider": "CPUExecutionProvider",
        "max_batch_size": 8,
        "max_delay_us": 0,
        "queue_rows": 64,
        "request_timeout_s": 30,
        "max_body_bytes": 1 << 20,
        "drain_seconds": 0,
        "host": "127.0.0.1",
        "port": 0,
        "log_level": "info",
    }
    (folder / "server.json").write_text(json.dumps(document | settings))
    return folder / "server.json"


def add_model(folder: Path, **settings: Any) -> Path:
    """z = x + y over [batch, 3] float32."""
    shape: list[int | str] = ["batch", 3]
    sig = signature({"x": ("float32", shape), "y": ("float32", shape)}, {"z": ("float32", shape)}, {"batch": [1, 16]})
    return write_server(folder, [helper.make_node("Add", ["x", "y"], ["z"])], sig, **settings)


EVERY_TYPE: dict[str, tuple[str, list[Any]]] = {
    "bool": ("BOOL", [True, False, True, True]),
    "uint8": ("UINT8", [0, 255, 1, 2]),
    "uint16": ("UINT16", [0, 65535, 1, 2]),
    "uint32": ("UINT32", [0, 2**32 - 1, 1, 2]),
    "uint64": ("UINT64", [0, 2**64 - 1, 2**63, 2**53 + 1]),
    "int8": ("INT8", [-128, 127, 0, 1]),
    "int16": ("INT16", [-32768, 32767, 0, 1]),
    "int32": ("INT32", [-(2**31), 2**31 - 1, 0, 1]),
    "int64": ("INT64", [-(2**63), 2**63 - 1, 2**53 + 1, 1]),
    "float16": ("FP16", [0.5, -65504, 0, 1]),
    "float32": ("FP32", [0.1, -3.4e38, 1e-45, 1]),
    "float64": ("FP64", [0.1, -1.7e308, 5e-324, 1]),
    "string": ("BYTES", ["", "plain", "Größe", "\u4e2d\U0001f600"]),
}
"""numpy's name of every element type, the protocol's, and values for 2 rows of 2."""


def every_type_model(folder: Path, **settings: Any) -> Path:
    """`out_T` = `in_T` over [batch, 2], for every type T."""
    sig = signature(
        {f"in_{dtype}": (dtype, ["batch", 2]) for dtype in EVERY_TYPE},
        {f"out_{dtype}": (dtype, ["batch", 2]) for dtype in EVERY_TYPE},
        {"batch": [1, 8]},
    )
    nodes = [helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]) for dtype in EVERY_TYPE]
    return write_server(folder, nodes, sig, **settings)


def spin_model(folder: Path, **settings: Any) -> Path:
    """y = x after `turns` multiplications by the identity: the client says how long the model is busy."""
    shape = [64, 64]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["h", "w"], ["h_next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_next", TensorProto.FLOAT, shape),
        ],
    )
    sig = signature({"x": ("float32", [64, 64]), "turns": ("int64", [])}, {"y": ("float32", [64, 64])}, {}, batch=None)
    identity = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    return write_server(
        folder, [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)], sig, [identity], **settings
    )


def spin(turns: int, **more: Any) -> str:
    """A request to `spin_model`; 20,000 turns take a second or so."""
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [64, 64], "data": [1.0] * 4096},
        {"name": "turns", "datatype": "INT64", "shape": [], "data": [turns]},
    ]
    return json.dumps({"inputs": inputs} | more)


FOREVER = 10**12


def edit(config: Path, **changes: Any) -> None:
    """Change settings; `model_x` stands for `model.x`."""
    document = json.loads(config.read_text())
    for name, value in changes.items():
        section = document["model"] if name.startswith("model_") else document
        section[name.removeprefix("model_")] = value
    config.write_text(json.dumps(document))


def ends(start: Start, config: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of a server that does not start, and its last words."""
    server = start(config, *arguments, ready=False)
    return server.wait_end(), str(server.log[-1]["message"])


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """Start servers on free loopback ports; they are ended afterwards."""
    running: list[Running] = []

    def start_one(config: Path, *arguments: str, ready: bool = True) -> Running:
        server = launch([sys.executable, "-m", "orchestrator.server", "--config", str(config), *arguments])
        running.append(server)
        if ready:
            server.wait_ready()
        return server

    try:
        yield start_one
    finally:
        for server in running:
            if server.process.poll() is None:
                server.process.kill()
            server.process.wait()
            server.reader.join()


@pytest.fixture
def start() -> Iterator[Start]:
    """`starting`, for one test."""
    with starting() as start_one:
        yield start_one


def launch(argv: list[str], **more: Any) -> Running:
    """Start a server process, and wait until it has bound its port or ended."""
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **more)
    live = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.raw.append(line)
            if line.startswith("{"):
                server.log.append(json.loads(line))
                if server.log[-1]["message"] == "live":
                    server.port = int(server.log[-1]["address"].rpartition(":")[2])
                    live.set()
        live.set()
        process.stderr.close()

    server = Running(process, threading.Thread(target=read, daemon=True))
    server.reader.start()
    assert live.wait(60)
    return server
