"""Slow, silent, vanished and very many clients: each is disconnected in time, and memory stays bounded."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from onnx import helper, numpy_helper

from tests.server.conftest import Running, Start, add_model, signature, write_server

pytestmark = pytest.mark.frameworks

GOOD = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]}
BODY = json.dumps(GOOD).encode()
PATH = "/v2/models/m/infer"
MIB = 1 << 20


def head(length: int) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()


def rss(server: Running) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def files(server: Running) -> int:
    return int(psutil.Process(server.process.pid).num_fds())


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


@contextlib.contextmanager
def connected(server: Running, count: int = 1) -> Iterator[list[socket.socket]]:
    address = ("127.0.0.1", server.port)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in range(count)]


def drip(connection: socket.socket, piece: bytes) -> float:
    """Send `piece` ten times a second until the server has had enough; the seconds."""
    began = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() < began + 30:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(piece)
                if not connection.recv(65536):
                    break
            except (ConnectionResetError, BrokenPipeError):
                break
    return time.monotonic() - began


def test_a_client_that_sends_a_head_or_a_body_too_slowly_is_disconnected_in_time(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, request_timeout_s=1))
    for begin, piece in ((b"GET /v2 HTTP/1.1\r\nHost: h\r\n", b"X: y\r\n"), (head(10_000), b" "), (b"", b"\r\n")):
        with connected(server) as (connection,):
            connection.sendall(begin)
            assert 0.5 < drip(connection, piece) < 15
    assert server.infer(GOOD).status == 200


def test_a_silent_client_is_disconnected_and_an_idle_connection_is_kept_for_a_while(
    tmp_path: Path, start: Start
) -> None:
    server = start(add_model(tmp_path, request_timeout_s=1, keep_alive_seconds=3))
    with connected(server, 2) as (silent, kept):
        kept.sendall(head(len(BODY)) + BODY)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        assert answer(silent) == b""
        kept.sendall(head(len(BODY)) + BODY)  # 1 s is over, 3 s are not
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        assert answer(kept) == b""


def test_a_client_that_is_never_idle_for_long_keeps_its_connection(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, request_timeout_s=1, keep_alive_seconds=1))
    with connected(server) as (connection,):
        for _ in range(8):  # twice as long as it may be idle; these are answered at once, without a turn in the model
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.25)


def test_a_client_that_vanishes_half_way_does_not_hold_resources(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, request_timeout_s=1))
    before = files(server)
    with connected(server, 50) as connections:
        for connection in connections:
            connection.sendall(head(1000) + b"{")
        for connection in connections:  # nothing more is sent: to the server they look like clients without a network
            assert answer(connection).startswith(b"HTTP/1.1 408")
    deadline = time.monotonic() + 30
    while files(server) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files(server) <= before


def wide_model(folder: Path) -> Path:
    """An answer of 4 MiB for 4 bytes."""
    sig = signature({"x": ("float32", ["batch", 1])}, {"y": ("float32", ["batch", MIB])}, {"batch": [1, 1]})
    shape = numpy_helper.from_array(np.array([1, MIB], np.int64), "shape")
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"])]
    return write_server(folder, nodes, sig, [shape], request_timeout_s=2, queue_rows=1000, max_body_bytes=100_000)


def test_a_client_that_does_not_read_answers_is_disconnected_and_memory_stays_bounded(
    tmp_path: Path, start: Start
) -> None:
    server = start(wide_model(tmp_path))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    before = rss(server)
    with connected(server, 300) as connections:
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall((head(len(body)) + body) * 5)
        most = 0
        deadline = time.monotonic() + 60
        while len(psutil.Process(server.process.pid).net_connections()) > 1 and time.monotonic() < deadline:
            most = max(most, rss(server) - before)
            time.sleep(0.05)
        assert time.monotonic() < deadline
    # 300 clients asked for 6 GiB; 64 MiB may wait to be read, and some answers are in the making.
    assert most < 300 * MIB
    assert server.ask("POST", PATH, body).status == 200


def test_requests_sent_ahead_of_a_reader_that_is_slow_at_times_are_all_answered(tmp_path: Path, start: Start) -> None:
    server = start(wide_model(tmp_path))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    with connected(server) as (connection,):
        for _ in range(2):
            connection.sendall((head(len(body)) + body) * 5)
            received = 0
            while received < 5 * 4 * MIB:
                received += len(connection.recv(1 << 18))
                time.sleep(0.001)
            assert received < 5 * 4 * MIB + 5000


def test_many_large_bodies_at_once_are_refused_before_they_fill_the_memory(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, max_body_bytes=8 * MIB))
    before = rss(server)
    with connected(server, 60) as connections:
        for connection in connections:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(head(8 * MIB) + b" " * (8 * MIB - 1))
        assert rss(server) - before < 200 * MIB  # of 480
        connections[-1].settimeout(30)
        assert connections[-1].recv(65536).startswith(b"HTTP/1.1 429")
    assert server.infer(GOOD).status == 200


def test_a_body_in_pieces_of_one_byte_takes_no_more_than_its_bytes(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, max_body_bytes=2 * MIB))
    server.infer(GOOD)
    before = rss(server)
    with connected(server) as (connection,):
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"1\r\n \r\n" * MIB)
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert rss(server) - before < 30 * MIB


def test_beyond_the_most_connections_others_are_turned_away(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, max_connections=20))
    with connected(server, 20), connected(server) as (one_more,):
        assert answer(one_more) == b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError):
            if server.infer(GOOD).status == 200:
                return
    raise AssertionError("the places were not free again")


def test_ten_thousand_connections_do_not_block_others(tmp_path: Path, start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 10_500:
        pytest.skip(f"this process may open {hard} files only; 10,500 are needed (ulimit -Hn)")
    server = start(add_model(tmp_path, request_timeout_s=60, queue_rows=3000))
    before = rss(server)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with connected(server, 10_000) as connections:
            for connection in connections[::4]:
                connection.sendall(b"GET /v2 HTTP/1.1\r\nX-Half: ")
            for connection in connections[1::4]:
                connection.sendall(head(1000) + b"{")
            for connection in connections[2::4]:
                connection.sendall(head(len(BODY)) + BODY)
            for connection in connections[2::4]:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            assert server.infer(GOOD).status == 200
            assert files(server) > 10_000
            assert rss(server) - before < 200 * MIB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    deadline = time.monotonic() + 60
    while files(server) > 500 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert files(server) < 500
    assert server.infer(GOOD).status == 200
    assert not [line for line in server.log if line["level"] == "error"]
