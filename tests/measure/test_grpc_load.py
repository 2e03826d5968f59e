"""The load generator over gRPC, against mlo's real server; a call of gRPC's own client is the yardstick."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from onnx import helper

grpc = pytest.importorskip("grpc")
pytest.importorskip("h2")

from orchestrator.backends.wire import encode_message, grpc_prefixed  # noqa: E402 - after the check that they are there
from orchestrator.machine.cpus import cpu_share  # noqa: E402
from orchestrator.measure.session import MeasuredProcess  # noqa: E402
from tests.server.conftest import add_model, signature, starting, write_server  # noqa: E402

pytestmark = pytest.mark.frameworks

MANY = 400_000
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The gRPC port of a server of z = x + y."""
    with starting() as start:
        yield int(start(add_model(tmp_path_factory.mktemp("add"), grpc_port=0)).wait_for_log("live")["grpc_port"])


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    with MeasuredProcess("orchestrator.measure.load", cpu_share(2), memory=None, folder=tmp_path / "load") as process:

        def command(message: bytes, **asked: Any) -> dict[str, Any]:
            (tmp_path / "message").write_bytes(grpc_prefixed(message))
            process.ask({"do": "open", "wire": "grpc", "requests": [str(tmp_path / "message")], "limit": 64}, 60)
            return process.ask({"wire": "grpc", "timeout": 30.0, **asked}, 60)

        yield command


def saturate(port: int, connections: int) -> dict[str, Any]:
    return {
        "do": "saturate",
        "port": port,
        "connections": connections,
        "seconds": 0.3,
        "answers": 2 * connections,
        "at_most": 20.0,
    }


def row() -> bytes:
    return encode_message("m", {name: np.array([[1, 2, 3]], np.float32) for name in "xy"})


def test_calls_are_answered_on_a_schedule_and_at_saturation(small: int, ask: Ask) -> None:
    found = ask(row(), do="schedule", port=small, rate=200.0, requests=60, seed=1)
    assert (len(found["latencies"]), found["errors"], found["refused"]) == (60, {}, {})
    found = ask(row(), **saturate(small, 16))
    assert found["answered"] >= 16
    assert (found["errors"], found["refused"]) == ({}, {})


def test_a_call_takes_about_as_long_as_that_of_grpcs_own_client(small: int, ask: Ask) -> None:
    ours = median(ask(row(), **saturate(small, 1))["latencies"])
    with grpc.insecure_channel(f"127.0.0.1:{small}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        times = []
        for _ in range(200):
            begun = time.perf_counter()
            infer(row(), timeout=30)
            times.append(time.perf_counter() - begun)
    # The generator adds less to a call than a client does; more than half of it is the server's.
    assert ours < 1.5 * median(times)


def test_messages_larger_than_the_windows_go_through(tmp_path: Path, ask: Ask) -> None:
    sig = signature({"x": ("float32", ["batch", MANY])}, {"y": ("float32", ["batch", MANY])}, {"batch": [1, 4]})

    with starting() as start:
        server = start(
            write_server(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], sig, grpc_port=0, max_body_bytes=2**21)
        )
        port = int(server.wait_for_log("live")["grpc_port"])
        message = encode_message("m", {"x": np.ones((1, MANY), np.float32)})
        found = ask(message, **saturate(port, 4))
        assert found["answered"] >= 4
        assert found["errors"] == {}


def test_a_message_that_the_server_refuses_before_it_is_sent_is_counted(small: int, ask: Ask) -> None:
    found = ask(
        encode_message("m", {"x": np.ones((1, 8 * MANY), np.float32)}),
        **saturate(small, 2) | {"answers": 0, "at_most": 1.0},
    )
    assert found["latencies"] == []
    assert found["errors"] == {}
    assert all("larger than max" in text for text in found["refused"])
    assert found["refused"]


def test_a_refused_call_is_an_error_with_its_reason(small: int, ask: Ask) -> None:
    found = ask(encode_message("other", {"x": np.ones((1, 3), np.float32)}), **saturate(small, 1) | {"at_most": 0.5})
    assert found["latencies"] == []
    assert all(text.startswith("gRPC status 5: no such model") for text in found["errors"])


def test_a_server_that_is_not_one_of_grpc_is_an_error(small: int, ask: Ask) -> None:

    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = ask(row(), do="schedule", port=listener.getsockname()[1], timeout=0.3, rate=50.0, requests=2, seed=1)
    assert found["latencies"] == []
    assert sum(found["refused"].values()) == 2
