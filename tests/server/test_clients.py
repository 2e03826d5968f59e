"""What clients of other makers do: ask for another protocol, wait for a go-ahead, close their half of the connection."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import FOREVER, Running, add_model, spin, spin_model, starting

pytestmark = pytest.mark.frameworks

TENSOR = {"datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
BODY = json.dumps({"inputs": [{"name": name, **TENSOR} for name in "xy"]}).encode()
PATH = "/v2/models/m/infer"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEADS = {
    "a length": b"POST %b HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n%b",
    "chunks": b"POST %b HTTP/1.1\r\nHost: h\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        yield start(add_model(tmp_path_factory.mktemp("add")))


def request(kind: str, headers: bytes = b"") -> bytes:
    return HEADS[kind] % (PATH.encode(), headers, len(BODY), BODY)


def exchange(server: Running, pieces: list[bytes], *, close_half: bool = True) -> bytes:
    """All that the server answers to these pieces, each sent a moment after the other."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.02)
        if close_half:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("cut", ["whole", "in the head", "in the body", "bytes"])
def test_a_wish_for_another_protocol_is_ignored(server: Running, kind: str, cut: str) -> None:
    asked = request(kind, H2C)
    end = asked.index(b"\r\n\r\n") + 4
    places = {"whole": [], "in the head": [40], "in the body": [end, end + 5], "bytes": range(1, len(asked), 9)}[cut]
    edges = [0, *places, len(asked)]
    pieces = [asked[a:b] for a, b in itertools.pairwise(edges)]
    # A second, plain request on the same connection gets its own answer, and there is no third one.
    received = exchange(server, [*pieces, request(kind)]).replace(CONTINUE, b"")
    assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b'"data":[2.0,4.0,6.0]') == 2


def test_requests_sent_ahead_with_such_a_wish_are_all_answered(server: Running) -> None:
    received = exchange(server, [request("a length", H2C) * 3 + request("chunks", H2C) + request("chunks")])
    assert received.count(b"HTTP/1.1 200 OK") == 5


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java")
def test_java_s_own_client(server: Running, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(BODY)
    source = Path(__file__).parent / "H2c.java"
    command = ["java", str(source), f"http://127.0.0.1:{server.port}", PATH, str(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 54
    assert [line for line in lines if not line.startswith("200 ")] == []
    assert sum('"data":[2.0,4.0,6.0]' in line for line in lines) == 53


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("options", [["--http2"], ["--http1.1"], ["--http1.0"], ["-H", "Expect: 100-continue"]])
def test_curl(server: Running, options: list[str]) -> None:
    url = f"http://127.0.0.1:{server.port}{PATH}"
    command = ["curl", "-sS", "--fail", "--max-time", "30", *options, "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "--data-binary", "@-", url, url], input=BODY, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b'"data":[2.0,4.0,6.0]') >= 1


def test_a_client_that_waits_for_the_go_ahead_gets_it_before_it_sends_its_body(server: Running) -> None:
    asked = request("a length", b"Expect: 100-continue\r\n")
    end = asked.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(asked[:end])
        assert connection.recv(65536) == CONTINUE
        connection.sendall(asked[end:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_sends_nothing_more_still_gets_a_slow_answer(tmp_path: Path) -> None:
    with starting() as start:
        server = start(spin_model(tmp_path))
        body = spin(5_000).encode()
        asked = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
        received = exchange(server, [asked * 2])
        assert received.count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_sends_nothing_more_is_asked_for_a_sign_of_life_while_it_waits(tmp_path: Path) -> None:
    with starting() as start:
        server = start(spin_model(tmp_path))
        body = spin(FOREVER, parameters={"timeout": 1_500_000}).encode()
        head = b"POST %b HTTP/1.%d\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
        received = exchange(server, [head % (PATH.encode(), 1, len(body)) + body])
        *signs, last = received.split(b"\r\n\r\nHTTP/")
        assert signs
        assert all(sign.endswith(b"1.1 100 Continue") for sign in signs)
        assert last.startswith(b"1.1 504 ")
        received = exchange(server, [head % (PATH.encode(), 0, len(body)) + body])
        assert received.startswith(b"HTTP/1.1 504 "), "HTTP/1.0 has no such signs"


@pytest.mark.parametrize("path", ["/v2", "/v2/health/ready", "/metrics", "/docs"])
def test_head_is_get_without_the_body(server: Running, path: str) -> None:
    answer, whole = server.ask("HEAD", path), server.ask("GET", path)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == whole.headers["content-type"]
    if path != "/metrics":  # whose numbers differ
        assert int(answer.headers["content-length"]) == len(whole.body)


@pytest.mark.parametrize(("path", "allowed"), [("/v2", "GET, HEAD, OPTIONS"), (PATH, "OPTIONS, POST")])
def test_options_tells_the_methods(server: Running, path: str, allowed: str) -> None:
    answer = server.ask("OPTIONS", path)
    assert (answer.status, answer.headers["allow"], answer.body) == (200, allowed, b"")
    assert exchange(server, [b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"]).startswith(b"HTTP/1.1 200 OK")
    assert server.ask("OPTIONS", "/other").status == 404


@pytest.mark.parametrize("host", [b"", b"Host: a\r\nHost: b\r\n"])
def test_a_request_of_http_1_1_names_one_host(server: Running, host: bytes) -> None:
    assert exchange(server, [b"GET /v2 HTTP/1.1\r\n%b\r\n" % host]).startswith(b"HTTP/1.1 400 ")
    assert exchange(server, [b"GET /v2 HTTP/1.0\r\n\r\n"]).startswith(b"HTTP/1.1 200 ")


def test_very_many_such_wishes_in_one_piece_are_all_answered(server: Running) -> None:
    wish = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n%b\r\n" % H2C
    assert exchange(server, [wish * 2000]).count(b"HTTP/1.1 200 OK") == 2000


@pytest.mark.parametrize(
    "prefix",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n%b\r\n" % H2C,
    ],
)
def test_what_cannot_be_answered_ends_the_connection_with_one_answer(server: Running, prefix: bytes) -> None:
    received = exchange(server, [prefix + request("a length")], close_half=False)
    assert received.count(b"HTTP/1.1 4") == 1
    assert received.count(b"HTTP/1.1 200") == 0
