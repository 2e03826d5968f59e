"""Deployments on this machine that speak TLS: the server itself does, on the deployment's own port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.targets.certificate import in_file, pinned_connection
from tests.certificates import certificate
from tests.targets.test_handover import BODY, Own, ask

pytestmark = pytest.mark.frameworks

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    """The certificate of the deployment's server; its key lies beside it."""
    return certificate(tmp_path, "server")[0]


@pytest.fixture
def own(tmp_path: Path, trust: Path) -> Iterator[Own]:
    deployment = Own(tmp_path, tls={"certificate": str(trust), "key": str(trust.with_suffix(".key"))})
    yield deployment
    deployment.target.stop()


def ask_tls(port: int, trust: Path) -> float:
    """As any client that trusts the certificate."""
    context = ssl.create_default_context(cafile=str(trust))
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    try:
        connection.request("POST", "/v2/models/m/infer", BODY)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return float(json.loads(content)["outputs"][0]["data"][0])
    finally:
        connection.close()


def test_the_endpoint_is_https_and_is_answered_by_the_server_itself(own: Own, trust: Path) -> None:
    port = own.deploy(1)
    assert own.target.url() == own.target.observe().endpoint == f"https://127.0.0.1:{port}"
    assert own.target.observe().health == "healthy"
    assert ask_tls(port, trust) == 1.0
    connection = pinned_connection("127.0.0.1", port, 30.0, in_file(trust))
    mine = connection.sock.getsockname()[1]
    assert any(each.raddr[1:] == (mine,) for each in own.server().net_connections("tcp"))
    connection.close()
    with pytest.raises((ConnectionError, AssertionError)):
        ask(port)  # plain HTTP


def test_requests_wait_for_a_server_that_is_started_again(own: Own, trust: Path, eventually: Eventually) -> None:
    port = own.deploy(1)
    os.kill(own.server().pid, signal.SIGKILL)
    eventually(lambda: own.target.observe().health != "healthy")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: ask_tls(port, trust), range(8))) == [1.0] * 8
    eventually(lambda: own.target.observe().health == "healthy")
    assert ask_tls(port, trust) == 1.0


def test_a_deployment_moves_to_tls_and_back_at_its_port(own: Own, trust: Path, tmp_path: Path) -> None:
    plain = Own(tmp_path / "plain")
    plain.target = own.target  # the same deployment
    (tmp_path / "plain").mkdir()
    port = plain.deploy(1)
    assert own.target.url() == f"http://127.0.0.1:{port}"
    own.live = plain.live
    assert own.deploy(2) == port
    assert own.target.url() == own.target.observe().endpoint == f"https://127.0.0.1:{port}"
    assert ask_tls(port, trust) == 2.0
    plain.live = own.live
    assert plain.deploy(3) == port
    assert own.target.url() == f"http://127.0.0.1:{port}"
    assert ask(port) == 3.0


def test_a_key_of_another_certificate_is_told_and_the_former_server_goes_on(
    own: Own, trust: Path, tmp_path: Path
) -> None:
    port = own.deploy(1)
    other = certificate(tmp_path, "other")
    own._settings["tls"] = {"certificate": str(other[0]), "key": str(trust.with_suffix(".key"))}
    with pytest.raises(DeployFailed) as failed:
        own.deploy(2)
    (error,) = failed.value.diagnostics
    assert error.code == "E603"
    assert "does not belong to the certificate" in error.cause
    assert ask_tls(port, trust) == 1.0
