"""TLS and bearer tokens from files, over HTTP and gRPC, and what happens when the files change."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tests.certificates import certificate
from tests.server.conftest import Running, Start, add_model, ends, starting

pytestmark = pytest.mark.frameworks

BODY = json.dumps({"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]})
TOKEN = "a-token-that-is-long-enough"
OTHER = "the-token-that-replaces-the-first"


def ask(server: Running, trust: Path, client: tuple[Path, Path] | None = None, body: str = BODY) -> int:
    """One inference over TLS; the status."""
    context = ssl.create_default_context(cafile=str(trust))
    if client is not None:
        context.load_cert_chain(*client)
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    try:
        connection.request("POST", "/v2/models/m/infer", body)
        with connection.getresponse() as answer:
            answer.read()
            return answer.status
    finally:
        connection.close()


def replace(path: Path, content: bytes) -> None:
    """As a kubelet does: never half a file."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def started(start: Start, config: Path) -> Running:
    """A server that speaks TLS, which `wait_ready` does not."""
    server = start(config, ready=False)
    server.wait_for_log("ready")
    return server


def test_requests_are_answered_over_tls_and_plain_ones_are_not(tmp_path: Path, start: Start) -> None:
    trust, key = certificate(tmp_path, "server")
    server = started(start, add_model(tmp_path, tls={"certificate": trust.name, "key": key.name}))
    assert ask(server, trust) == 200
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        server.ask("GET", "/v2")
    large = json.dumps(json.loads(BODY) | {"id": "x" * 500_000})
    assert ask(server, trust, body=large) == 200
    assert server.stop() == 0
    assert not [line for line in server.log if line["level"] == "error"]


def test_a_new_certificate_is_taken_over_and_a_broken_one_is_not(tmp_path: Path, start: Start) -> None:
    trust, key = certificate(tmp_path, "server")
    server = started(start, add_model(tmp_path, tls={"certificate": trust.name, "key": key.name}))
    first = tmp_path / "first.pem"
    first.write_bytes(trust.read_bytes())
    replace(trust, b"no certificate")
    server.wait_for_log_starting("the certificate cannot be reloaded")
    assert ask(server, first) == 200
    (tmp_path / "next").mkdir()
    new, new_key = certificate(tmp_path / "next", "server")
    replace(key, new_key.read_bytes())
    replace(trust, new.read_bytes())
    server.wait_for_log("reloaded the certificate")
    assert ask(server, new) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(server, first)


def test_only_clients_of_the_named_authority_are_heard(tmp_path: Path, start: Start) -> None:
    trust, key = certificate(tmp_path, "server")
    authority = certificate(tmp_path, "authority")
    client = certificate(tmp_path, "client", authority)
    stranger = certificate(tmp_path, "stranger")
    tls = {"certificate": trust.name, "key": key.name, "client_ca": authority[0].name}
    server = started(start, add_model(tmp_path, tls=tls))
    assert ask(server, trust, client) == 200
    for wrong in (None, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(server, trust, wrong)


def test_clients_of_a_former_authority_are_no_longer_heard(tmp_path: Path, start: Start) -> None:
    trust, key = certificate(tmp_path, "server")
    former, new = certificate(tmp_path, "former"), certificate(tmp_path, "new")
    revoked, client = certificate(tmp_path, "revoked", former), certificate(tmp_path, "client", new)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(former[0].read_bytes())
    tls = {"certificate": trust.name, "key": key.name, "client_ca": ca.name}
    server = started(start, add_model(tmp_path, tls=tls))
    assert ask(server, trust, revoked) == 200
    context = ssl.create_default_context(cafile=str(trust))
    context.load_cert_chain(*revoked)
    kept = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    kept.request("GET", "/v2/health/live")
    kept.getresponse().read()
    session = kept.sock.session

    replace(ca, new[0].read_bytes())
    server.wait_for_log("reloaded the certificate")
    assert ask(server, trust, client) == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(server, trust, revoked)
    with (
        suppress(ssl.SSLError, ConnectionError),
        socket.create_connection(("localhost", server.port), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as resumed,
    ):
        resumed.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert resumed.recv(100) == b""
    kept.request("GET", "/v2/health/live")  # what is open stays open
    assert kept.getresponse().status == 200
    kept.close()
    assert server.stop() == 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    folder = tmp_path_factory.mktemp("token")
    (folder / "token").write_text(TOKEN + "\n")
    with starting() as start:
        yield start(add_model(folder, token_file="token", grpc_port=0)), folder / "token"


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
def test_without_the_token_only_health_is_answered(guarded: tuple[Running, Path], given: str) -> None:
    server, _ = guarded
    headers = {"Authorization": given} if given else {}
    for method, path in (("GET", "/v2"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/nothing")):
        answer = server.ask(method, path, headers=headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert server.ask("POST", "/v2/models/m/infer", BODY, headers).status == 401
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert server.ask("GET", path, headers=headers).status == 200


def test_with_the_token_all_is_answered_and_it_is_never_logged(guarded: tuple[Running, Path]) -> None:
    server, _ = guarded
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert server.ask("POST", "/v2/models/m/infer", BODY, headers).status == 200
    assert server.ask("POST", "/v2/models/m/infer", "{", headers).status == 400
    assert b'reason="unauthorized"' in server.ask("GET", "/metrics", headers=headers).body
    assert not [line for line in server.raw if TOKEN in line]


def test_a_new_token_is_taken_over_and_two_may_hold_at_once(guarded: tuple[Running, Path]) -> None:
    server, path = guarded

    def status(token: str) -> int:
        return server.ask("GET", "/v2", headers={"Authorization": f"Bearer {token}"}).status

    assert (status(TOKEN), status(OTHER)) == (200, 401)
    try:
        replace(path, f"{TOKEN}\n{OTHER}\n".encode())
        deadline = time.monotonic() + 60
        while status(OTHER) != 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (status(TOKEN), status(OTHER)) == (200, 200)
    finally:
        replace(path, f"{TOKEN}\n".encode())
        deadline = time.monotonic() + 60
        while status(OTHER) != 401 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert (status(TOKEN), status(OTHER)) == (200, 401)


def test_grpc_asks_for_the_token_too(guarded: tuple[Running, Path]) -> None:
    grpc = pytest.importorskip("grpc")
    from orchestrator.server import open_inference_pb2 as pb

    port = guarded[0].wait_for_log("live")["grpc_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def call(name: str, *metadata: tuple[str, str]) -> object:
            stub = channel.unary_unary(
                f"/inference.GRPCInferenceService/{name}", pb.ServerLiveRequest.SerializeToString
            )
            return stub(pb.ServerLiveRequest(), metadata=metadata, timeout=30)

        assert call("ServerLive")
        assert call("ServerMetadata", ("authorization", f"Bearer {TOKEN}"))
        with pytest.raises(grpc.RpcError) as raised:
            call("ServerMetadata", ("authorization", "Bearer wrong"))
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_grpc_speaks_tls_and_follows_the_files(tmp_path: Path, start: Start) -> None:
    grpc = pytest.importorskip("grpc")
    from orchestrator.server import open_inference_pb2 as pb

    trust, key = certificate(tmp_path, "server")
    server = started(start, add_model(tmp_path, tls={"certificate": trust.name, "key": key.name}, grpc_port=0))
    port = server.wait_for_log("live")["grpc_port"]

    def live(root: bytes) -> bool:
        with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root)) as channel:
            stub = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                pb.ServerLiveRequest.SerializeToString,
                pb.ServerLiveResponse.FromString,
            )
            return bool(stub(pb.ServerLiveRequest(), timeout=30).live)

    assert live(trust.read_bytes())
    (tmp_path / "next").mkdir()
    new, new_key = certificate(tmp_path / "next", "server")
    replace(key, new_key.read_bytes())
    replace(trust, new.read_bytes())
    server.wait_for_log("reloaded the certificate")
    assert live(new.read_bytes())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"token_file": "missing"}, "token_file"),
        ({"token_file": "empty"}, "must contain at least one token"),
        ({"token_file": "short"}, "must contain at least one token"),
        ({"tls": {"certificate": "missing", "key": "one.key"}}, "missing: No such file or directory"),
        ({"tls": {"certificate": "empty", "key": "empty"}}, "are no certificate and private key as PEM"),
        ({"tls": {"certificate": "one.crt", "key": "two.key"}}, "two.key does not belong to the certificate"),
        ({"tls": {"certificate": "locked.crt", "key": "locked.key"}}, "the key is encrypted"),
    ],
)
def test_secrets_that_cannot_be_used_end_with_65(
    tmp_path: Path, start: Start, settings: dict[str, object], says: str
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "short").write_text("123")
    certificate(tmp_path, "one")
    certificate(tmp_path, "two")
    certificate(tmp_path, "locked", password=b"password")
    code, message = ends(start, add_model(tmp_path, **settings))
    assert code == 65
    assert says in message


@pytest.mark.parametrize(
    ("begins", "ends_in", "says"),
    [
        (timedelta(days=-2), timedelta(days=-1), "has expired"),
        (timedelta(days=1), timedelta(days=2), "is not yet valid"),
    ],
)
def test_a_certificate_that_clients_refuse_is_told_in_the_log(
    tmp_path: Path, start: Start, begins: timedelta, ends_in: timedelta, says: str
) -> None:
    trust, key = certificate(tmp_path, "server", begins=begins, ends=ends_in)
    server = started(start, add_model(tmp_path, tls={"certificate": trust.name, "key": key.name}))
    assert says in server.wait_for_log_starting("clients refuse the certificate")["message"]
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(server, trust)


def test_a_certificate_that_expires_while_it_is_served_is_told_in_the_log(tmp_path: Path, start: Start) -> None:
    trust, key = certificate(tmp_path, "server", ends=timedelta(seconds=6))
    server = started(start, add_model(tmp_path, tls={"certificate": trust.name, "key": key.name}))
    assert "has expired" in server.wait_for_log_starting("clients refuse the certificate")["message"]
