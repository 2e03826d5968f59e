"""From start to exit, against the real server."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.server.conftest import Start, add_model, launch, signature, write_server

pytestmark = pytest.mark.frameworks

REQUEST = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]}


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


def slow_model(folder: Path, **settings: Any) -> Path:
    """A model that takes a while for each row: 400 products of 256 x 256 matrices in a loop that cannot be folded."""
    weights = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", "w"], [f"h{i + 1}"]) for i in range(400)]
    nodes.append(helper.make_node("Identity", ["h400"], ["y"]))
    shape: list[int | str] = ["batch", 256, 256]
    sig = signature({"x": ("float32", shape)}, {"y": ("float32", shape)}, {"batch": [1, 1]})
    return write_server(folder, nodes, sig, [weights], **settings)


SLOW_REQUEST = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 256, 256], "data": [1.0] * 65536}]}
)


def test_it_says_live_then_ready_and_ends_with_0_on_sigterm(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path))
    assert server.stop() == 0
    assert [line["message"] for line in server.log] == ["live", "loaded", "ready", "draining", "stopped"]
    assert server.log[1]["warm_up_rows"] == [1, 8]
    assert all(line.startswith("{") for line in server.raw)


def test_while_draining_it_is_not_ready_but_serves_and_lets_connections_go(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, drain_seconds=3600))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/v2")
    connection.getresponse().read()
    server.process.send_signal(signal.SIGTERM)
    server.wait_for_log("draining")
    assert server.ask("GET", "/v2/health/ready").status == 503
    assert server.ask("GET", "/v2/models/m/ready").status == 503
    assert server.ask("GET", "/v2/health/live").status == 200
    answer = server.infer(REQUEST)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    connection.request("POST", "/v2/models/m/infer", json.dumps(REQUEST))  # over the connection from before
    assert connection.getresponse().status == 200
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.wait_end() == 128 + signal.SIGTERM


def test_what_is_in_flight_is_finished(tmp_path: Path, start: Start) -> None:
    server = start(slow_model(tmp_path))
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(server.ask("POST", "/v2/models/m/infer", SLOW_REQUEST).status)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while server.ask("GET", "/metrics").body.count(b"mlo_queue_rows 2.0") == 0:
        pass
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert statuses == [200] * 3


def test_a_request_that_nobody_waits_for_is_not_run(tmp_path: Path, start: Start) -> None:
    server = start(slow_model(tmp_path))
    first = threading.Thread(target=server.ask, args=("POST", "/v2/models/m/infer", SLOW_REQUEST))
    first.start()
    gone = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(4)]
    for connection in gone:
        connection.request("POST", "/v2/models/m/infer", SLOW_REQUEST)
    while b"mlo_queue_rows 4.0" not in server.ask("GET", "/metrics").body:
        pass
    for connection in gone:
        connection.close()
    while b'mlo_rejections_total{reason="cancelled"} 4.0' not in server.ask("GET", "/metrics").body:
        pass
    first.join()
    assert b"mlo_batch_rows_count 1.0" in server.ask("GET", "/metrics").body


def test_a_request_may_say_how_long_it_waits(tmp_path: Path, start: Start) -> None:
    server = start(slow_model(tmp_path))
    document = json.loads(SLOW_REQUEST) | {"parameters": {"timeout": 1000}}
    assert server.infer(document).status == 504


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": 0}, "threads must be a whole number from 1 to 1024, not 0"),
        ({"threads": "2"}, "threads must be a whole number from 1 to 1024, not '2'"),
        ({"instances": 2}, "instances (2) must not be more than threads (1)"),
        ({"speed": 1}, "speed is not a setting"),
        ({"format": 2}, "format must be a whole number from 1 to 1, not 2"),
        ({"drain_seconds": None}, "drain_seconds must be a number from 0 to 3600, not None"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, not 'loud'"),
        ({"provider": "gpu"}, "provider must match"),
        ({"model": 1}, "model must be an object, not 1"),
        ({"model_file": "../model.onnx"}, "model.file must be a path below server.json's folder"),
        ({"model_sha256": "0"}, "model.sha256 must match"),
        ({"model_labels": {}}, "model.labels.variant is missing"),
        ({"model_signature": {}}, "model.signature.dims is missing"),
        (
            {"model_signature": signature({"x": ("bfloat16", [1])}, {"y": ("float32", [1])}, {}, None)},
            "model.signature.inputs[0].dtype must be one of",
        ),
        (
            {"model_signature": signature({"x": ("float32", ["n"])}, {"y": ("float32", [1])}, {}, None)},
            "model.signature.dims lacks 'n', a dimension of input 'x'",
        ),
        (
            {"model_signature": signature({"x": ("float32", ["n"])}, {"y": ("float32", [1])}, {"n": [2, 1]}, "n")},
            "model.signature.dims.n must be [smallest, largest], not [2, 1]",
        ),
        (
            {"model_signature": signature({"x": ("float32", [1])}, {"y": ("float32", [1])}, {}, "batch")},
            "model.signature.batch is 'batch', but input 'x' does not begin with it",
        ),
    ],
)
def test_a_wrong_setting_is_named_and_ends_with_65(
    tmp_path: Path, start: Start, changes: dict[str, Any], says: str
) -> None:
    config = add_model(tmp_path)
    edit(config, **changes)
    code, message = ends(start, config)
    assert code == 65
    assert str(config) in message
    assert says in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"\x7fELF" * 100])
def test_a_configuration_that_is_none_ends_with_65(tmp_path: Path, start: Start, content: bytes) -> None:
    config = tmp_path / "server.json"
    config.write_bytes(content)
    assert ends(start, config)[0] == 65


def test_a_configuration_that_cannot_be_read_ends_with_65(tmp_path: Path, start: Start) -> None:
    for config in (tmp_path / "missing.json", tmp_path):
        code, message = ends(start, config)
        assert code == 65
        assert "cannot be read" in message


def test_another_model_file_ends_with_66(tmp_path: Path, start: Start) -> None:
    config = add_model(tmp_path)
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    code, message = ends(start, config)
    assert code == 66
    assert "its sha256 is" in message
    (tmp_path / "model.onnx").unlink()
    code, message = ends(start, config)
    assert code == 66
    assert "cannot be read" in message


def test_a_file_that_is_no_model_ends_with_66(tmp_path: Path, start: Start) -> None:
    config = add_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    edit(config, model_sha256=hashlib.sha256(b"not a model").hexdigest())
    code, message = ends(start, config)
    assert code == 66
    assert "cannot be loaded" in message


def test_a_signature_of_another_model_ends_with_66(tmp_path: Path, start: Start) -> None:
    config = add_model(tmp_path)
    edit(
        config,
        model_signature=signature({"x": ("float32", ["b", 3])}, {"z": ("float32", ["b", 3])}, {"b": [1, 2]}, "b"),
    )
    code, message = ends(start, config)
    assert code == 66
    assert "inputs" in message


def test_a_model_that_does_not_run_at_its_smallest_size_ends_with_66(tmp_path: Path, start: Start) -> None:
    sig = signature(
        {"x": ("float32", ["batch", "n"])}, {"y": ("float32", ["batch", 2])}, {"batch": [1, 4], "n": [1, 9]}
    )
    two = numpy_helper.from_array(np.array([-1, 2], np.int64), "two")
    config = write_server(tmp_path, [helper.make_node("Reshape", ["x", "two"], ["y"])], sig, [two])
    code, message = ends(start, config)
    assert code == 66
    assert "does not run on zeros" in message


def test_a_provider_that_is_not_there_ends_with_69(tmp_path: Path, start: Start) -> None:
    code, message = ends(start, add_model(tmp_path, provider="NoSuchExecutionProvider"))
    assert code == 69
    assert "lacks NoSuchExecutionProvider; it has" in message


def test_a_taken_port_ends_with_69(tmp_path: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = ends(start, add_model(tmp_path), "--port", str(port))
    assert code == 69
    assert f"cannot listen on 127.0.0.1:{port}" in message


def test_the_folder_runs_as_a_package_of_its_own(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "orchestrator" / "server"
    shutil.copytree(source, tmp_path / "mlo_server")
    config = add_model(tmp_path)
    server = launch([sys.executable, "-m", "mlo_server", "--config", str(config)], cwd=tmp_path, env={})
    try:
        server.wait_ready()
        assert server.infer(REQUEST).json["outputs"][0]["data"] == [2, 4, 6]
        assert server.stop() == 0
    finally:
        server.process.kill()


def test_it_stops_while_it_still_loads(tmp_path: Path, start: Start) -> None:
    server = start(slow_model(tmp_path), ready=False)
    assert server.stop() == 0
