"""For any input, the answer is a 4xx or a closed connection, and the server keeps running."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.conftest import Running, add_model, starting

pytestmark = pytest.mark.frameworks

GOOD = {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]}
PATH = "/v2/models/m/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        yield start(add_model(tmp_path_factory.mktemp("add"), request_timeout_s=1, max_body_bytes=100_000))


@pytest.fixture(autouse=True)
def lives_on(server: Running) -> Iterator[None]:
    """After every test the server answers, and nothing was a surprise to it."""
    yield
    assert server.infer(GOOD).status == 200
    assert not [line for line in server.log if line["level"] == "error"]


def send(server: Running, *parts: bytes, finish: bool = False) -> bytes:
    """Send bytes over one connection and read until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break
        if finish:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return received


def status(answer: bytes) -> int | None:
    """The status of a raw answer, None for a connection that was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer else None


def head(length: int | str, *more: str) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: h", "Connection: close", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\x00" * 1000,
        b"[" * 99_999,
        b'{"inputs":' * 9_000,
        b'{"inputs": [' + b"[]," * 30_000 + b"[]]}",
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ' + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [99999999999, 99999999999], "data": []}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1e400, 0, 0]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [NaN, 0, 0]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [' + b"9" * 5000 + b", 0, 0]}]}",
        b'{"id": "\xff", "inputs": []}',
        b'{"id": "\\ud800", "inputs": []}',
        b'\xef\xbb\xbf{"inputs": []}',
    ],
)
def test_a_body_that_is_not_a_request_gets_400(server: Running, body: bytes) -> None:
    answer = server.ask("POST", PATH, body)
    assert answer.status == 400
    assert len(answer.json["error"]) < 500


def test_a_body_beyond_the_limit_gets_413_however_its_size_is_declared(server: Running) -> None:
    assert status(send(server, head(100_001))) == 413
    assert status(send(server, head(10**18))) == 413
    chunk = b"%x\r\n" % 60_000 + b" " * 60_000 + b"\r\n"
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert status(send(server, chunked, chunk, chunk)) in {413, None}


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "9" * 30, "1, 2"])
def test_a_length_that_is_not_a_number_gets_400(server: Running, length: str) -> None:
    assert status(send(server, head(length), b"{}")) in {400, 413}


def test_a_length_and_chunks_at_once_get_400(server: Running) -> None:
    assert status(send(server, head(5, "Transfer-Encoding: chunked"), b"0\r\n\r\n")) == 400


def test_a_body_shorter_than_its_length_is_not_waited_for_longer_than_the_limit(server: Running) -> None:
    assert status(send(server, head(100), b"{")) == 408


def test_a_client_that_hangs_up_in_the_middle_of_its_body_is_forgotten(server: Running) -> None:
    send(server, head(100), b"{", finish=True)
    assert server.wait_for_log("the client disconnected while sending")["status"] == 499


@pytest.mark.parametrize("length", ["-1", "x", "1.5", "999999", "9" * 30, ""])
def test_a_wrong_json_length_gets_400(server: Running, length: str) -> None:
    body = json.dumps(GOOD)
    assert server.ask("POST", PATH, body, {"Inference-Header-Content-Length": length}).status == 400


def test_a_compressed_body_gets_415(server: Running) -> None:
    assert server.ask("POST", PATH, b"\x1f\x8b", {"Content-Encoding": "gzip"}).status == 415


def test_an_endless_head_is_cut_off(server: Running) -> None:
    start = b"GET /v2 HTTP/1.1\r\n"
    assert status(send(server, start, *[b"X: " + b"a" * 1000 + b"\r\n"] * 500)) in {400, None}
    assert status(send(server, start + b"X: ", *[b"a" * 10_000] * 50)) in {400, None}
    assert status(send(server, b"GET /", *[b"a" * 10_000] * 50)) in {400, None}
    trailers = [b"T: " + b"a" * 1000 + b"\r\n"] * 500
    chunked = f"POST {PATH} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".encode()
    assert status(send(server, chunked, *trailers)) in {400, 408, None}


@pytest.mark.parametrize(
    "noise", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_not_http_gets_400(server: Running, noise: bytes) -> None:
    assert status(send(server, noise)) == 400


def test_requests_sent_ahead_are_answered_in_order(server: Running) -> None:
    body = json.dumps(GOOD).encode()
    one = head(len(body)).replace(b"Connection: close\r\n", b"") + body
    answers = send(server, one * 2 + head(len(body)) + body)
    assert answers.count(b"HTTP/1.1 200") == 3


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), length=st.integers(0, 320))
def test_random_bodies_get_400(server: Running, body: bytes, length: int) -> None:
    assert server.ask("POST", PATH, body).status == 400
    assert server.ask("POST", PATH, body, {"Inference-Header-Content-Length": str(length)}).status == 400


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
FIELDS = ["name", "datatype", "shape", "data", "parameters"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from([*FIELDS, "inputs", "outputs", "id", "top parameters"]), value=JSON_VALUES)
def test_any_value_in_any_place_is_answered_or_refused(server: Running, field: str, value: object) -> None:
    document = json.loads(json.dumps(GOOD))
    if field in FIELDS:
        document["inputs"][0][field] = value
    else:
        document[field.removeprefix("top ")] = value
    assert server.infer(document).status in {200, 400, 504}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(-(2**70), 2**70) | st.integers(0, 30), junk=st.binary(max_size=30))
def test_any_declared_size_is_answered_or_refused(server: Running, size: int, junk: bytes) -> None:
    document = json.loads(json.dumps(GOOD))
    del document["inputs"][0]["data"]
    document["inputs"][0]["parameters"] = {"binary_data_size": size}
    content = json.dumps(document).encode()
    answer = server.ask("POST", PATH, content + junk, {"Inference-Header-Content-Length": str(len(content))})
    assert answer.status in {200, 400}


def test_not_a_number_is_a_value_like_any_other_in_raw_tensors(server: Running) -> None:
    document = json.loads(json.dumps(GOOD))
    del document["inputs"][0]["data"]
    document["inputs"][0]["parameters"] = {"binary_data_size": 12}
    content = json.dumps(document).encode()
    raw = struct.pack("<3f", float("nan"), float("inf"), 1.0)
    answer = server.ask("POST", PATH, content + raw, {"Inference-Header-Content-Length": str(len(content))})
    assert answer.json["outputs"][0]["data"] == ["NaN", "Infinity", 4]


def test_a_thousand_idle_connections_do_not_block_others(server: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
    try:
        for connection in idle[::2]:
            connection.sendall(head(100) + b"{")
        assert server.infer(GOOD).status == 200
    finally:
        for connection in idle:
            connection.close()
