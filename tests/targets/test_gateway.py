"""What the endpoint passes on: everything of a message, nothing of its own."""

from __future__ import annotations

import json
import socket
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.targets.conftest import Deployment


@pytest.fixture
def endpoint(deployment: Deployment) -> str:
    return deployment.deploy(1).removeprefix("http://")


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


def test_head_tells_the_length_of_what_get_would_bring(endpoint: str) -> None:
    answer, document = _get(endpoint, "/anything", method="HEAD")
    assert answer.status == 200
    assert document is None
    assert int(answer.getheader("Content-Length", "0")) > 0


def test_status_and_body_of_an_error_come_back(endpoint: str, deployment: Deployment) -> None:
    deployment.deploy(2, fails=429)
    assert deployment.post("/v2/models/m/infer", {}) == (429, {"error": "the stand-in says no"})


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


def test_garbage_is_answered_and_the_next_request_served(endpoint: str, deployment: Deployment) -> None:
    with socket.create_connection(tuple_of(endpoint)) as raw:
        raw.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert b" 400 " in raw.recv(100)
    assert deployment.ask() == 1.0
