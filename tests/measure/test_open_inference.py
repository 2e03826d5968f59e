"""What servers say of their models, and answer, when they are not what a benchmark expects."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.backends.wire import decode, encode_json
from orchestrator.errors import MloError, UsageError
from orchestrator.measure.endpoint_benchmark import EndpointLoad, RunningEndpoint, benchmark_endpoints
from orchestrator.measure.load_connections import Address
from orchestrator.measure.open_inference import described, made_up_inputs

PATH = "/v2/models/m"


@contextmanager
def answering(body: bytes, *, refusing: int = 0, seconds: float = 0) -> Iterator[str]:
    """The URL of a server that answers everything with this, in this time; after each answer it refuses so many requests."""
    number = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body are one packet

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(seconds)
            self.send_response(429 if next(number) % (refusing + 1) else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - as the base class calls it

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model(shape: list[Any]) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": shape}
    return json.dumps({"inputs": [tensor], "outputs": [tensor]}).encode()


def endpoint(url: str) -> RunningEndpoint:
    return RunningEndpoint(
        label=url,
        url=urlsplit(url),
        path=f"{PATH}/infer",
        model="m",
        encode=lambda inputs, _: encode_json(inputs),
        decode=decode,
        wires=("json",),
        inputs=[{}],
        headers={},
        trust=None,
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (model([float("inf"), 2]), "not that of the protocol"),
        (b'{"inputs": []}', "'outputs' is missing"),
        (b'{"inputs": [], "outputs": []}', "no inputs"),
        (b" " * 17_000_000, "longer than"),
    ],
    ids=["html", "deep", "infinite", "half", "empty", "long"],
)
def test_a_description_that_is_none_is_refused_with_the_reason(body: bytes, said: str) -> None:
    with answering(body) as url, pytest.raises(UsageError, match="cannot be measured") as refused:
        described(urlsplit(url), PATH, {}, None)

    assert said in refused.value.diagnostics[0].cause


def test_inputs_are_not_made_up_in_a_size_that_the_memory_cannot_hold() -> None:
    with answering(model([-1, 10**13])) as url:
        signature = described(urlsplit(url), PATH, {}, None)

    with pytest.raises(UsageError, match="made up for x") as refused:
        made_up_inputs(signature)

    assert "--input" in refused.value.diagnostics[0].remedy


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"[" * 200_000], ids=["html", "deep"])
def test_a_server_whose_good_status_comes_with_no_answer_is_not_measured(body: bytes) -> None:
    with answering(body) as url, pytest.raises(MloError) as refused:
        benchmark_endpoints([endpoint(url)], EndpointLoad(2, 10, 2, None), lambda *_: None)

    assert "not an inference response" in refused.value.diagnostics[0].cause


def test_an_ipv6_address_without_a_port_is_not_cut_into_one() -> None:
    with pytest.raises(UsageError) as refused:
        described(urlsplit("http://[::1]/v2/models/m"), PATH, {}, None)

    assert "refused" in refused.value.diagnostics[0].cause or "unreachable" in refused.value.diagnostics[0].cause


def test_a_host_whose_first_address_refuses_is_loaded_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(b"") as url:
        port = urlsplit(url).port or 0
        found = [(2, 1, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)

        assert Address.find("both", port).socket == ("127.0.0.1", port)


def test_a_server_that_refuses_most_requests_is_not_called_faster() -> None:
    body = b'{"outputs": []}'
    with answering(body) as willing, answering(body, refusing=2) as busy:
        results, compared, _ = benchmark_endpoints(
            [endpoint(willing), endpoint(busy)], EndpointLoad(2, 50, 2, None), lambda *_: None
        )

    assert compared is not None
    assert [bool(each.refused) for each in results] == [False, True]
    assert compared.latency is None


def test_a_server_too_slow_for_the_time_is_to_be_measured_longer() -> None:
    with answering(b'{"outputs": []}', seconds=0.7) as url:
        (result,), _, _ = benchmark_endpoints([endpoint(url)], EndpointLoad(1, 10, 1, None), lambda *_: None)

    assert isinstance(result.saturation, NotMeasured)
    assert "--duration" in result.saturation.reason


def test_a_page_in_place_of_a_description_is_shown() -> None:
    with answering(b"<html>hello</html>") as url, pytest.raises(UsageError) as caught:
        described(urlsplit(url), PATH, {}, None)
    assert caught.value.diagnostics[0].cause == f"what GET {PATH} was answered with is not JSON: <html>hello</html>"


def test_where_nothing_listens_the_place_is_named() -> None:
    with answering(b"") as url:
        pass
    with pytest.raises(UsageError) as caught:
        described(urlsplit(url), PATH, {}, None)
    assert caught.value.diagnostics[0].cause == f"127.0.0.1, port {urlsplit(url).port}: Connection refused"
