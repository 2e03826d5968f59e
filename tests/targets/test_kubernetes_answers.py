"""A cluster that is busy, refuses or does not answer: what is tried again, how long is waited, and what is said."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

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
    assert problem.remedy
    assert len(asked) == (3 if code == "E652" else 1)


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
    finally:
        relay.close()
    assert failed.value.diagnostics[0].code == "E666"
    assert "has not answered within 0.2 s" in failed.value.diagnostics[0].cause
