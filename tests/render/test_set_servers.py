"""Servers started with rendered configurations obey what `serving:` of the spec sets; asked by clients of others."""

from __future__ import annotations

import os
import select
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.backends.table import serving_backend
from orchestrator.errors import DeployFailed
from orchestrator.release.golden import check_golden
from orchestrator.targets.client import infer
from tests.render.served import READY, ROW, SIGNATURE, Served, samples
from tests.server.collector import collector, spans

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]


def test_grpc_answers_where_the_spec_asks_for_it(serve: Callable[..., Served]) -> None:
    served = serve(grpc=True)
    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(service="digits"), timeout=30, wait_for_ready=True)
    assert answer.status == health.HealthCheckResponse.SERVING
    assert served.status() == 200


def test_a_body_above_the_limit_is_refused_and_the_golden_requests_fit(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve(limits={"max_body": 1024})
    assert served.status() == 200
    assert served.status(body=ROW + " " * 1024) == 413
    backend = serving_backend("onnxruntime")
    limit = backend.max_body(served.folder / "serving")
    assert limit == 1024
    # 64 rows of 12 bytes and what is said of them are more than 1 KiB, as are the 100 of the other request.
    golden = check_golden(served.url, backend, "digits", samples(tmp_path / "i"), {}, precision="fp32", max_body=limit)
    assert golden.rows == 64
    x = np.ones((100, 3), np.float32)
    answer = infer(served.url, backend, "digits", {"x": x}, signature=SIGNATURE, max_body=limit)
    np.testing.assert_array_equal(answer["y"], -x)


def test_more_connections_than_allowed_are_closed(serve: Callable[..., Served]) -> None:
    served = serve(limits={"max_connections": 16})
    held = [socket.create_connection(("127.0.0.1", served.port), timeout=30) for _ in range(17)]
    try:
        ended = set(select.select(held, [], [], 30)[0])
        ended.update(select.select([each for each in held if each not in ended], [], [], 0.5)[0])
        assert [each.recv(1) for each in ended] == [b""]
    finally:
        for each in held:
            each.close()


def test_a_body_that_does_not_arrive_in_time_is_given_up(serve: Callable[..., Served]) -> None:
    served = serve(limits={"request_timeout": 0.2})
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")


_TOKEN = "one-of-the-tokens"


@pytest.fixture
def token_file() -> Iterator[Path]:
    """A file with two tokens, at a place that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder) / "token"
        file.write_text(f"{_TOKEN}\nthe-other-token-0\n")
        yield file


def test_requests_need_a_token_and_probes_none(serve: Callable[..., Served], token_file: Path, tmp_path: Path) -> None:
    served = serve(grpc=True, auth={"token_file": str(token_file), "secret": "digits-token"})
    bearer = ("--header", f"Authorization: Bearer {_TOKEN}")
    assert served.status() == 401
    assert served.status("--header", "Authorization: Bearer none-of-the-tokens") == 401
    assert served.status(*bearer) == 200
    assert served.status(path="/metrics", body=None) == 401
    assert served.status(*bearer, path="/metrics", body=None) == 200
    for probed in (READY, "/v2/health/live"):
        assert served.status(path=probed, body=None) == 200

    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(), timeout=30, wait_for_ready=True)
        assert answer.status == health.HealthCheckResponse.SERVING
        ask = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        with pytest.raises(grpc.RpcError) as refused:
            ask(b"", timeout=30)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert b"mlo" in ask(b"", timeout=30, metadata=[("authorization", f"Bearer {_TOKEN}")])

    backend = serving_backend("onnxruntime")
    found = backend.token_file(served.folder / "serving")
    assert found == token_file
    golden = check_golden(
        served.url, backend, "digits", samples(tmp_path / "i"), {}, precision="fp32", token_file=found
    )
    assert golden.rows == 64
    x = {"x": np.ones((1, 3), np.float32)}
    with pytest.raises(DeployFailed) as without:
        infer(served.url, backend, "digits", x, signature=SIGNATURE)
    assert without.value.diagnostics[0].code == "E611"
    token_file.write_text("")
    with pytest.raises(DeployFailed) as none:
        infer(served.url, backend, "digits", x, signature=SIGNATURE, token_file=found)
    assert none.value.diagnostics[0].code == "E625"
    assert none.value.diagnostics[0].remedy.startswith("write the accepted tokens into it, one per line")
    token_file.write_text(f"{_TOKEN}\nanother\n")
    infer(served.url, backend, "digits", x, signature=SIGNATURE, token_file=found)


def test_pages_of_the_allowed_origins_may_ask_and_read(serve: Callable[..., Served], token_file: Path) -> None:
    auth = {"token_file": str(token_file), "secret": "digits-token"}
    served = serve(cors_origins=["https://app.example.com"], auth=auth)

    def ask(origin: str, *options: str) -> tuple[str, dict[str, str]]:
        """The status and the headers, as curl prints them."""
        url = f"{served.url}/v2/models/digits/infer"
        form = ("--silent", "--max-time", "30", "--output", os.devnull, "--dump-header", "-")
        first, *lines = served.run("curl", *form, "--header", f"Origin: {origin}", *options, url).strip().splitlines()
        return first.split()[1], {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    before = ("--request", "OPTIONS", "--header", "Access-Control-Request-Method: POST")
    body = ("--header", f"Authorization: Bearer {_TOKEN}", "--data-binary", ROW)
    status, headers = ask("https://app.example.com", *before)
    assert (status, headers["access-control-allow-origin"]) == ("200", "https://app.example.com")
    assert "POST" in headers["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= set(headers["access-control-allow-headers"].split(", "))
    status, headers = ask("https://app.example.com", *body)
    assert (status, headers["access-control-allow-origin"]) == ("200", "https://app.example.com")
    assert headers["vary"] == "origin"
    status, headers = ask("https://app.example.com", "--data-binary", ROW)
    assert (status, headers["access-control-allow-origin"]) == ("401", "https://app.example.com"), "the page sees why"
    for options in (before, body):
        _, headers = ask("https://app.example.com.evil.org", *options)
        assert not [name for name in headers if name.startswith("access-control-")]
    assert ask("https://app.example.com.evil.org", *before)[0] == "401"


def test_any_page_may_ask_where_all_origins_are_allowed(serve: Callable[..., Served]) -> None:
    served = serve(cors_origins=["*"])
    answer = served.run("curl", "--silent", "--include", "--header", "Origin: null", f"{served.url}/v2")
    assert "access-control-allow-origin: *" in answer
    assert "access-control" not in served.run("curl", "--silent", "--include", f"{served.url}/v2")


def test_a_traceparent_leads_to_a_span_of_the_same_trace(serve: Callable[..., Served]) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collector() as (endpoint, sent):
        served = serve(traces={"endpoint": endpoint, "sample": 0.0})
        assert served.status("--header", f"traceparent: 00-{trace}-{parent}-01") == 200
        assert served.status() == 200
        served.stop()
        (infer_span,) = [span for span in spans(sent, "digits") if span.name == "infer"]
    assert (infer_span.trace_id.hex(), infer_span.parent_span_id.hex()) == (trace, parent)
