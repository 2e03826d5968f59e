"""From start to exit, against the real server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from orchestrator.server.http_server import EVERYWHERE, bind
from tests.server.conftest import (
    FOREVER,
    Start,
    add_model,
    edit,
    ends,
    launch,
    signature,
    spin,
    spin_model,
    write_server,
)

pytestmark = pytest.mark.frameworks

REQUEST = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]}


def test_it_says_live_then_ready_and_ends_with_0_on_sigterm(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path))
    assert server.stop() == 0
    assert [line["message"] for line in server.log] == ["live", "loaded", "ready", "draining", "stopped"]
    assert server.log[1]["warm_up_rows"] == [1, 2, 4, 8]
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
    with connection.getresponse() as last:
        assert last.status == 200
    connection.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.wait_end() == 128 + signal.SIGTERM


def test_an_option_of_the_command_line_overrides_how_long_it_drains(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, drain_seconds=3600), "--drain-seconds", "0")
    assert server.stop() == 0
    (draining,) = [line for line in server.log if line["message"] == "draining"]
    assert draining["seconds"] == 0


def test_what_is_in_flight_is_finished(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path))
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(server.ask("POST", "/v2/models/m/infer", spin(20_000)).status)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while b"mlo_queue_rows 2.0" not in server.ask("GET", "/metrics").body and not statuses:
        pass
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert statuses == [200] * 3


@pytest.mark.parametrize("sent", [0, 20, -5], ids=["nothing yet", "a part of its head", "a part of its body"])
def test_a_request_that_is_on_its_way_is_answered(tmp_path: Path, start: Start, sent: int) -> None:
    server = start(add_model(tmp_path, drain_seconds=0))
    body = json.dumps(REQUEST).encode()
    request = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request[:sent])
        assert server.ask("GET", "/v2").status == 200  # the server has accepted the connection before this one
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("draining")
        time.sleep(0.2)
        connection.sendall(request[sent:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.wait_end() == 0


def test_a_request_of_a_disconnected_client_leaves_the_queue(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path, request_timeout_s=3600))
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(5)]
    for connection in waiting:
        connection.request("POST", "/v2/models/m/infer", spin(FOREVER))
    while b"mlo_queue_rows 4.0" not in server.ask("GET", "/metrics").body:
        pass
    for connection in waiting:
        connection.close()
    while b"mlo_queue_rows 0.0" not in server.ask("GET", "/metrics").body:
        pass
    assert b'mlo_requests_total{code="200"' not in server.ask("GET", "/metrics").body


def test_a_request_may_say_how_long_it_waits(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path))
    answer = server.ask("POST", "/v2/models/m/infer", spin(FOREVER, parameters={"timeout": 1000}))
    assert answer.status == 504


def test_a_call_that_never_ends_does_not_keep_the_server_from_ending(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path))
    answer = server.ask("POST", "/v2/models/m/infer", spin(FOREVER, parameters={"timeout": 1000}))
    assert answer.status == 504
    assert server.stop() == 0


def test_requests_beyond_the_queue_are_refused_with_when_to_retry(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path, queue_rows=1))
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(2)]
    waiting[0].request("POST", "/v2/models/m/infer", spin(FOREVER))
    while b"mlo_queue_rows 1.0" not in server.ask("GET", "/metrics").body:
        # The first may still wait for the model's thread when the second comes, which is then refused at once.
        waiting[1].close()
        waiting[1].request("POST", "/v2/models/m/infer", spin(FOREVER))
    answer = server.ask("POST", "/v2/models/m/infer", spin(1))
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    for connection in waiting:
        connection.close()


def test_a_wrong_setting_is_named_and_ends_with_65(tmp_path: Path, start: Start) -> None:
    config = add_model(tmp_path)
    edit(config, speed=1)
    assert ends(start, config) == (65, f"{config}: speed is an unknown setting")


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


def test_the_files_beside_the_model_are_checked_too(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float32", ["batch", 2])}, {"y": ("float32", ["batch", 2])}, {"batch": [1, 4]})
    weights = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    config = write_server(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], sig, [weights])
    model = onnx.load(tmp_path / "model.onnx")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    data = tmp_path / "model.onnx.data"
    sha256 = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "model.onnx", data)}
    edit(config, model_sha256=sha256[tmp_path / "model.onnx"], model_files={data.name: sha256[data]})
    assert start(config).stop() == 0
    data.write_bytes(bytes(len(data.read_bytes())))
    code, message = ends(start, config)
    assert code == 66
    assert "model.onnx.data: its sha256 is" in message


def test_it_is_warm_at_the_sizes_of_the_sweep_before_it_is_ready(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, batch_sizes=[3, 5, 99]))
    assert server.wait_for_log("loaded")["warm_up_rows"] == [1, 3, 5, 8]


def test_a_file_that_is_not_a_model_ends_with_66(tmp_path: Path, start: Start) -> None:
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


def test_a_model_whose_ids_begin_with_1_is_served_though_it_refuses_zeros(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("int64", ["batch"])}, {"y": ("float32", ["batch"])}, {"batch": [1, 4]})
    table = numpy_helper.from_array(np.array([10, 20], np.float32), "table")
    far = numpy_helper.from_array(np.array(-3, np.int64), "far")  # ids 1 and 2 become -2 and -1; 0 is outside the table
    nodes = [helper.make_node("Add", ["x", "far"], ["id"]), helper.make_node("Gather", ["table", "id"], ["y"])]
    server = start(write_server(tmp_path, nodes, sig, [table, far]))
    answer = server.infer({"inputs": [{"name": "x", "datatype": "INT64", "shape": [2], "data": [2, 1]}]})
    assert answer.status == 200
    assert answer.json["outputs"][0]["data"] == [20, 10]


def test_a_provider_that_is_not_there_ends_with_69(tmp_path: Path, start: Start) -> None:
    code, message = ends(start, add_model(tmp_path, provider="NoSuchExecutionProvider"))
    assert code == 69
    assert "lacks NoSuchExecutionProvider; it has" in message


def test_a_gpu_that_is_not_there_ends_with_69(tmp_path: Path, start: Start) -> None:
    code, message = ends(start, add_model(tmp_path, provider="CUDAExecutionProvider", devices=[0]))
    assert code == 69
    assert message.startswith("this machine's ONNX Runtime lacks CUDAExecutionProvider; it has ")


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


def test_onnx_runtime_keeps_nothing_about_the_machine_and_has_nothing_to_send(tmp_path: Path) -> None:
    config = add_model(tmp_path)
    # Nothing that says "CI", where ONNX Runtime is quiet by itself.
    seen = {}
    bare = [sys.executable, "-c", "import onnxruntime"]
    served = [sys.executable, "-m", "orchestrator.server", "--config", str(config)]
    for name, command in (("bare", bare), ("served", served)):
        home = tmp_path / name
        home.mkdir()
        env = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
        server = launch(command, env=env)
        if name == "served":
            server.wait_ready()
            assert server.infer(REQUEST).status == 200
            server.stop()
        server.wait_end()
        seen[name] = sorted(path.name for path in home.rglob("*") if path.is_file())
    assert seen["served"] == []
    assert "deviceid" in seen["bare"], "this ONNX Runtime has no telemetry: the test shows nothing"


def test_it_stops_while_it_still_loads(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path), ready=False)
    assert server.stop() == 0


def test_it_listens_on_the_addresses_of_both_families(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, host="*", grpc_port=0))
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    live = server.wait_for_log("live")
    assert live["address"] == f"[::]:{server.port}"
    for host in ("127.0.0.1", "::1"):
        connection = http.client.HTTPConnection(host, server.port, timeout=30)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        with socket.create_connection((host, live["grpc_port"]), timeout=30):
            pass


def test_without_ipv6_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.create_server

    def without_ipv6(address: Any, **options: Any) -> socket.socket:
        if options.get("family") == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return made(address, **options)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    with bind(EVERYWHERE, 0) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False
