"""A cluster that is busy, refuses or does not answer: what is tried again, how long is waited, and what is said."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import pytest
import yaml

from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes import connection, forward, helm, preflight, rollout
from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.forward import Relay
from orchestrator.targets.kubernetes.helm import Helm, HelmFailed
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.refusals import refusal_error
from orchestrator.targets.kubernetes.rollout import Rollout
from orchestrator.targets.kubernetes.target import KubernetesTarget

PATH = "/api/v1/namespaces/models"


class Busy(BaseHTTPRequestHandler):
    """Answers with each of the statuses in turn, and then with the last."""

    statuses: list[int]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.command)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        body = json.dumps({"message": "try later"} if status != 200 else {"kind": "Namespace"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def connected_to(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    document = {
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "contexts": [{"name": "a", "context": {"cluster": "one", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "none"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(document), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))
    return Cluster("a")


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Cluster, list[str]]]]:
    monkeypatch.setattr(connection, "_AGAIN", (0.0, 0.0))
    servers: list[ThreadingHTTPServer] = []

    def serve(*statuses: int) -> tuple[Cluster, list[str]]:
        handler = type("Answers", (Busy,), {"statuses": list(statuses), "asked": []})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        return connected_to(address, tmp_path, monkeypatch), cast("Any", handler).asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_busy_cluster_is_asked_again(busy: Callable[..., tuple[Cluster, list[str]]]) -> None:
    cluster, asked = busy(503, 429, 200)
    assert cluster.get(PATH) == {"kind": "Namespace"}
    assert asked == ["GET"] * 3
    cluster, asked = busy(429, 200)
    assert cluster.call("POST", PATH, {}) == {"kind": "Namespace"}


def test_a_change_that_may_have_been_made_is_not_made_again(busy: Callable[..., tuple[Cluster, list[str]]]) -> None:
    cluster, asked = busy(500, 200)
    with pytest.raises(Refused):
        cluster.call("POST", PATH, {})
    assert asked == ["POST"]


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "E654", "is not accepted"),
        (403, "E654", "may not do that"),
        (429, "E652", "does not answer"),
        (503, "E652", "does not answer"),
        (404, "E667", "refuses a request"),
        (409, "E667", "refuses a request"),
        (422, "E667", "refuses a request"),
    ],
)
def test_a_refusal_is_called_what_it_is(
    status: int, code: str, said: str, busy: Callable[..., tuple[Cluster, list[str]]]
) -> None:
    cluster, asked = busy(status)
    with pytest.raises(Refused) as refused:
        cluster.get(PATH)
    (problem,) = refusal_error(cluster, "models", refused.value).diagnostics
    assert (problem.code, said in problem.message, "try later" in problem.cause) == (code, True, True)
    told = {
        "E652": "run the command again later",
        "E654": "log in again" if status == 401 else "have the Role of docs/kubernetes.md bound to it",
        "E667": "if somebody else is changing the namespace, run the command again",
    }
    assert problem.remedy.startswith(told[code])
    assert len(asked) == (3 if code == "E652" else 1)
    cluster, _ = busy(200)
    assert cluster.get(PATH) == {"kind": "Namespace"}


def target_on(cluster: Any, *, create: bool = False) -> KubernetesTarget:
    place = KubernetesPlacement(context=None, server="", namespace="models", port=80, create_namespace=create, wait=30)
    target = KubernetesTarget("digits", place)
    target._cluster = cluster
    return target


class Refusing:
    """A cluster that refuses each request with the status for its method."""

    name = "the context `a`"
    context = "a"

    def __init__(self, **statuses: int) -> None:
        self.statuses = statuses
        self.made: list[str] = []

    def find(self, path: str, **_: Any) -> Any:
        return self.call("GET", path)

    get = find

    def call(self, method: str, path: str, *_: Any, **__: Any) -> Any:
        self.made.append(f"{method} {path}")
        if status := self.statuses.get(method):
            raise Refused(status, "", f"refused with {status}")
        return {}


def test_what_the_cluster_refuses_is_explained_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KubernetesTarget, "check", lambda _: None)
    for act in (target_on(Refusing(GET=503), create=True).prepare, lambda: list(target_on(Refusing(GET=503)).logs())):
        with pytest.raises(DeployFailed) as failed:
            act()
        assert failed.value.diagnostics[0].code == "E652"


@pytest.mark.parametrize("statuses", [{"GET": 403}, {"GET": 403, "POST": 409}, {"GET": 403, "POST": 403}])
def test_a_user_who_may_not_read_namespaces_goes_on(statuses: dict[str, int]) -> None:
    cluster = Refusing(**statuses)
    preflight.make_namespace(cast("Cluster", cluster), "models")
    assert cluster.made == [f"GET {PATH}", "POST /api/v1/namespaces"]


def test_a_look_that_fails_does_not_end_a_rollout_until_half_a_minute_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout, "_EVERY", 0.0)
    cluster = Refusing(GET=503)
    looking = Rollout(cast("Cluster", cluster), "models", "digits", 2, 30, lambda _: None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    looking.look()
    now += 29
    looking.look()
    cluster.statuses.clear()
    monkeypatch.setattr(rollout, "pod_states", lambda *_: [])
    looking.look()
    cluster.statuses["GET"] = 503
    now += 29
    looking.look()
    now += 31
    with pytest.raises(Refused):
        looking.look()


def test_helm_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "helm"
    program.write_text('#!/bin/sh\n[ "$1" = version ] && echo v3.14.0 && exit\nexec sleep 60\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(helm, "found_helm", lambda: str(program))
    monkeypatch.setattr(helm, "_ENDING", 0.1)
    monkeypatch.setattr(helm, "_LOOK", 0.05)
    began = time.monotonic()
    with pytest.raises(HelmFailed, match=r"`helm rollback` timed out"):
        Helm(None, "models").rollback("digits", 1, 0.1)
    monkeypatch.setattr(helm, "_SECONDS", 0.2)
    with pytest.raises(HelmFailed, match=r"`helm history` timed out"):
        Helm(None, "models").history("digits")
    assert time.monotonic() - began < 20


def test_a_connection_to_a_pod_is_not_waited_for_without_end(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_CONNECTING", 0.2)
    relay = Relay(connected_to(silent, tmp_path, monkeypatch), "models", lambda: "a", 8080)
    try:
        with pytest.raises(DeployFailed) as failed:
            relay.check()
        assert asked_of(relay) == b""
        assert relay.lost == 1, "before a client gives up, which would say that the pod does not answer"
    finally:
        relay.close()
    assert failed.value.diagnostics[0].code == "E666"
    assert "has not answered within 0.2 s" in failed.value.diagnostics[0].cause


class Kubelet(BaseHTTPRequestHandler):
    """An API server that forwards connections once it reaches the kubelet: after so many that it does not."""

    protocol_version = "HTTP/1.1"
    unreached: ClassVar[list[int]] = []
    farewell = True

    def do_GET(self) -> None:
        if self.unreached:
            self.unreached.pop()
            self.send_error(502, "error dialing backend")
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        for message in (
            b"\x00\x90\x1f",
            b"\x01\x90\x1f",
            b"\x00answer",
        ):  # the channels' beginnings, with the port, and data
            self.wfile.write(bytes([0x82, len(message)]) + message)
        if self.farewell:
            self.wfile.write(b"\x88\x02\x03\xe8")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


def asked_of(relay: Relay) -> bytes:
    """What comes back on one connection until it is closed."""
    with socket.create_connection(("127.0.0.1", urlsplit(relay.url).port or 0), 20) as client:
        found = b""
        while data := client.recv(64):
            found += data
    return found


def test_connections_to_a_pod_are_forwarded_once_the_cluster_reaches_its_kubelet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ThreadingHTTPServer(("127.0.0.1", 0), Kubelet)
    Thread(target=api.serve_forever, daemon=True).start()
    relay = Relay(
        connected_to(f"http://127.0.0.1:{api.server_port}", tmp_path, monkeypatch), "models", lambda: "a", 8080
    )
    monkeypatch.setattr(forward, "_AGAIN", (0.0, 0.0, 0.0))
    try:
        Kubelet.unreached[:] = range(4)
        with pytest.raises(DeployFailed) as failed:
            relay.check()
        (problem,) = failed.value.diagnostics
        assert (problem.code, "error dialing backend" in problem.cause) == ("E666", True)
        assert "the API server must reach the kubelets" in problem.remedy
        Kubelet.unreached[:] = range(4)
        assert asked_of(relay) == b""
        assert relay.lost == 1, "it is told from a pod that does not answer"
        Kubelet.unreached[:] = range(3)
        assert asked_of(relay) == b"answer", "the client waits while the cluster is asked again"
        Kubelet.unreached[:] = range(3)
        relay.check()
        assert relay.lost == 1
        monkeypatch.setattr(Kubelet, "farewell", False)
        assert asked_of(relay) == b"answer"
        assert relay.lost == 2, "the cluster has broken the connection off"
    finally:
        relay.close()
        api.shutdown()
        api.server_close()


class BrokenOff:
    """A connection to a pod that breaks off at the first request, which is seen in this direction first."""

    def __init__(self) -> None:
        self.sock, self._other = socket.socketpair()
        self._sent = Event()

    def send_binary(self, _: bytes) -> None:
        self._sent.set()
        raise ConnectionResetError

    def recv_data_frame(self, **_: bool) -> Any:
        self._sent.wait()
        time.sleep(0.1)
        raise ConnectionResetError

    def shutdown(self) -> None:
        self.sock.close()
        self._other.close()


def test_a_connection_that_breaks_off_under_a_request_is_lost_whoever_sees_it_first() -> None:
    relay = Relay(cast("Cluster", None), "models", lambda: "a", 8080)
    relay._connect = lambda _: BrokenOff()  # type: ignore[assignment, method-assign]
    try:
        with socket.create_connection(("127.0.0.1", urlsplit(relay.url).port or 0), 20) as client:
            client.sendall(b"request")
            assert client.recv(64) == b""
        assert relay.lost == 1
    finally:
        relay.close()
