"""The gateway passes on everything in a message, and adds nothing of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from orchestrator.targets.local.gateway.gateway import Gateway

if TYPE_CHECKING:
    from orchestrator.targets.local.revision import Revision
    from tests.targets.conftest import Deployment

pytestmark = pytest.mark.processes


Served = Callable[..., "Deployment"]


@pytest.fixture
def endpoint(served: Served) -> str:
    return served().endpoint.removeprefix("http://")


def _get(
    endpoint: str, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[HTTPResponse, Any]:
    connection = HTTPConnection(endpoint, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    return answer, json.loads(content) if content else None


@pytest.mark.parametrize("path", ["/v2/a%2Fb/%20x?q=1&q=%2B2", "/", "/double//slash", "/a/../b"])
def test_path_and_query_arrive_as_they_were_sent(endpoint: str, path: str) -> None:
    with socket.create_connection(tuple_of(endpoint)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode("latin-1"))
        with raw.makefile("rb") as stream:
            content = stream.read()
    assert json.loads(content.partition(b"\r\n\r\n")[2])["path"] == path


def tuple_of(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.partition(":")
    return host, int(port)


def test_headers_arrive_as_they_were_sent_without_those_of_the_connection(endpoint: str) -> None:
    sent = {
        "X-Trace": "7",
        "Authorization": "Bearer t",
        "Accept-Encoding": "identity",
        "Connection": "keep-alive, X-Private",
        "X-Private": "hop",
        "TE": "trailers",
    }
    _, document = _get(endpoint, "/headers", sent)
    got = dict(document["headers"])
    assert got == {
        "X-Trace": "7",
        "Authorization": "Bearer t",
        "Accept-Encoding": "identity",
        "Host": endpoint,
    }


def test_answers_come_back_with_the_servers_headers_only(endpoint: str) -> None:
    answer, _ = _get(endpoint, "/anything")
    assert {name.lower() for name, _ in answer.getheaders()} == {"server", "date", "content-length", "x-twice"}
    assert answer.getheader("Server", "").startswith("BaseHTTP")


def test_head_has_the_content_length_of_get(endpoint: str) -> None:
    answer, document = _get(endpoint, "/anything", method="HEAD")
    assert answer.status == 200
    assert document is None
    assert int(answer.getheader("Content-Length", "0")) > 0


def test_status_and_body_of_an_error_come_back(served: Served) -> None:
    assert served(fails=429).post("/v2/models/m/infer", {}) == (429, {"error": "the stand-in says no"})


def test_large_bodies_pass_and_compressed_ones_stay_compressed(endpoint: str) -> None:
    body = b"\x1f\x8b" + bytes(20 * 2**20)
    connection = HTTPConnection(endpoint, timeout=60)
    connection.request("POST", "/echo", body, {"Content-Encoding": "gzip"})
    assert json.loads(connection.getresponse().read())["length"] == len(body)
    connection.close()


def test_a_chunked_body_arrives_whole(endpoint: str) -> None:
    connection = HTTPConnection(endpoint, timeout=30)
    connection.request("POST", "/echo", iter([b"ab", b"cde"]), encode_chunked=True)
    assert json.loads(connection.getresponse().read())["length"] == 5
    connection.close()


def test_without_a_revision_the_answer_is_503_with_the_reason(deployment: Deployment) -> None:
    endpoint = deployment.target.prepare()
    assert deployment.post("/v2/models/m/infer", {}, endpoint) == (503, {"error": "no revision is deployed"})


def test_garbage_is_answered_and_the_next_request_served(endpoint: str, served: Served) -> None:
    with socket.create_connection(tuple_of(endpoint)) as raw:
        raw.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert b" 400 " in raw.recv(100)
    assert served().ask() == 1.0


def _raw(endpoint: str, *pieces: bytes, half_close: bool = False) -> bytes:
    """All that comes back for these bytes until the gateway closes the connection."""
    with socket.create_connection(tuple_of(endpoint), timeout=30) as raw:
        for piece in pieces:
            raw.sendall(piece)
        if half_close:
            raw.shutdown(socket.SHUT_WR)
        with raw.makefile("rb") as stream:
            return stream.read()


def test_a_client_that_closed_its_sending_side_still_gets_the_answer(endpoint: str) -> None:
    answer = _raw(endpoint, b"GET /half HTTP/1.1\r\nHost: h\r\n\r\n", half_close=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"/half" in answer


def test_an_old_client_is_answered_and_the_connection_ends(endpoint: str) -> None:
    answer = _raw(endpoint, b"GET /old HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    assert endpoint.rpartition(":")[2].encode() not in answer  # `Host` is the server's own where the client sends none


def test_requests_that_come_together_are_answered_in_their_order(endpoint: str) -> None:
    paths = [b"/%d" % number for number in range(20)]
    asked = b"".join(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in paths)
    answer = _raw(endpoint, asked + b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    found = [answer.index(b'"path": "%b"' % path) for path in [*paths, b"/last"]]
    assert found == sorted(found)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_upgrades_and_tunnels_are_refused(endpoint: str, request_head: bytes) -> None:
    answer = _raw(endpoint, request_head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"the connection cannot be upgraded" in answer


def test_a_client_that_expects_100_continue_gets_it(endpoint: str) -> None:
    with socket.create_connection(tuple_of(endpoint), timeout=30) as raw:
        head = (
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
        )
        raw.sendall(head)
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        with raw.makefile("rb") as stream:
            assert stream.read(len(go_on)) == go_on
            raw.sendall(b"abc")
            assert b'"length": 3' in stream.read()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 300000000\r\n\r\n", b"413"),
        (b"GET /%b HTTP/1.1\r\n" % (b"x" * 70_000), b"431"),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
    ],
)
def test_too_large_or_ambiguous_requests_are_refused_by_their_head(
    endpoint: str, served: Served, request_head: bytes, status: bytes
) -> None:
    assert _raw(endpoint, request_head)[9:12] == status
    assert served().ask() == 1.0


def test_a_slow_client_gets_all_of_a_large_answer(endpoint: str) -> None:
    with socket.create_connection(tuple_of(endpoint), timeout=30) as raw:
        raw.sendall(b"GET /large/20000000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        received = 0
        while data := raw.recv(1 << 20):
            received += len(data)
    assert received > 20_000_000


def test_a_client_that_does_not_read_its_answer_holds_up_no_other(endpoint: str) -> None:
    """Of some size, an answer has just arrived whole at the gateway when the client can take no more of it."""
    with contextlib.ExitStack() as slow_ones:
        for size in range(100_000, 6_000_000, 100_000):
            slow = slow_ones.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(tuple_of(endpoint))
            slow.sendall(b"GET /large/%d HTTP/1.1\r\nHost: h\r\n\r\n" % size)
            time.sleep(0.02)
            assert _get(endpoint, "/next")[0].status == 200, size


@pytest.mark.parametrize(("version", "ending"), [(b"1.1", b"\r\n0\r\n\r\n"), (b"1.0", b"streamed")])
def test_a_body_that_ends_with_the_connection_arrives_whole(endpoint: str, version: bytes, ending: bytes) -> None:
    answer = _raw(endpoint, b"GET /until-closed HTTP/%b\r\nHost: h\r\nConnection: close\r\n\r\n" % version)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"streamed" in answer
    assert answer.endswith(ending)


def test_a_truncated_answer_is_not_passed_on_as_complete(endpoint: str) -> None:
    connection = HTTPConnection(endpoint, timeout=30)
    connection.request("GET", "/cut-off")
    with pytest.raises((IncompleteRead, ConnectionResetError)):
        connection.getresponse().read()
    connection.close()


class _Slow:
    """A revision whose server takes its time to accept a connection, or does not accept it."""

    def __init__(self, failure: OSError | None = None) -> None:
        self.in_flight = 0
        self.ready = asyncio.Event()
        self.ready.set()
        self.recipe = SimpleNamespace(revision=1)
        self.upstreams = self
        self.connecting = asyncio.Event()
        self.accepts = asyncio.Event()
        self._failure = failure

    def enter(self) -> None:
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def idle(self) -> None:
        return None

    async def connect(self) -> object:
        self.connecting.set()
        await self.accepts.wait()
        if self._failure is not None:
            raise self._failure
        return object()


@pytest.mark.parametrize("end", ["connected", "refused", "the client is gone"])
def test_a_request_counts_on_its_revision_from_before_it_is_connected(end: str) -> None:
    async def check() -> None:
        gateway, former = Gateway(), _Slow(OSError("no") if end == "refused" else None)
        gateway.current = cast("Revision", former)
        reaching = asyncio.create_task(gateway.reach())
        await former.connecting.wait()
        assert former.in_flight == 1  # a switch now would wait for this request before it ends the server

        gateway.current = cast("Revision", successor := _Slow())
        successor.accepts.set()
        if end == "the client is gone":
            reaching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reaching
            assert (former.in_flight, successor.in_flight) == (0, 0)
            return
        former.accepts.set()
        reached = await reaching
        taken, other = (successor, former) if end == "refused" else (former, successor)
        assert cast("object", reached.revision) is taken
        assert (taken.in_flight, other.in_flight) == (1, 0)

    asyncio.run(check())
