"""The load generator and the benchmark over TLS, against mlo's real server; a certificate is made for it."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from stat import S_IMODE
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.wire import encode_message, grpc_prefixed
from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.certificate import STARTED_HERE, make_certificate
from orchestrator.measure.generator_limit import generator_limit
from orchestrator.measure.load_connections import http_request
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.tls_socket import TlsSocket
from orchestrator.spec.certificates import flaw_of
from orchestrator.steps.server_options import ServerTls
from tests.server.conftest import add_model, starting

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]

BODY = json.dumps({"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} for name in "xy"]})


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, tls: ServerTls) -> Iterator[dict[str, int]]:
    """Of a server of z = x + y over TLS, by wire."""
    files = {"certificate": tls.certificate, "key": tls.key}
    with starting() as start:
        server = start(add_model(tmp_path_factory.mktemp("add"), grpc_port=0, tls=files), ready=False)
        server.wait_for_log("ready")
        live = server.wait_for_log("live")
        yield {"json": int(live["address"].rpartition(":")[2]), "grpc": int(live["grpc_port"])}


@pytest.fixture
def generator(tmp_path: Path) -> Iterator[MeasuredProcess]:
    with MeasuredProcess("orchestrator.measure.load", cpu_share(2), memory=None, folder=tmp_path / "load") as process:
        yield process


def opened(generator: MeasuredProcess, folder: Path, wire: str, *, tls: bool = True) -> None:
    request = http_request("/v2/models/m/infer", {"Content-Type": "application/json"}, BODY.encode())
    if wire == "grpc":
        request = grpc_prefixed(encode_message("m", {name: np.array([[1, 2, 3]], np.float32) for name in "xy"}))
    (folder / "request").write_bytes(request)
    command = {"do": "open", "wire": wire, "requests": [str(folder / "request")], "limit": 64}
    command["tls"] = STARTED_HERE if tls else None
    generator.ask(command, 60)


def saturate(wire: str, port: int) -> dict[str, Any]:
    load = {"connections": 8, "seconds": 0.3, "answers": 16, "at_most": 20.0, "timeout": 30.0}
    return {"do": "saturate", "wire": wire, "port": port, **load}


@pytest.mark.parametrize("wire", ["json", "grpc"])
def test_requests_are_answered_on_a_schedule_and_at_saturation(
    ports: dict[str, int], generator: MeasuredProcess, tmp_path: Path, wire: str
) -> None:
    if wire == "grpc":
        pytest.importorskip("grpc")
        pytest.importorskip("h2")
    opened(generator, tmp_path, wire)
    schedule = {"do": "schedule", "rate": 200.0, "requests": 60, "seed": 1, "timeout": 30.0}
    found = generator.ask({**schedule, "wire": wire, "port": ports[wire]}, 60)
    assert (len(found["latencies"]), found["errors"], found["refused"]) == (60, {}, {})
    found = generator.ask(saturate(wire, ports[wire]), 60)
    assert found["answered"] >= 16
    assert (found["errors"], found["refused"]) == ({}, {})


def test_many_handshakes_at_once_do_not_end_a_server(
    ports: dict[str, int], generator: MeasuredProcess, tmp_path: Path
) -> None:
    """Where gRPC was given its certificate anew at each handshake, the process died of them, mostly within these turns."""
    pytest.importorskip("grpc")
    pytest.importorskip("h2")
    opened(generator, tmp_path, "grpc")
    turn = {**saturate("grpc", ports["grpc"]), "connections": 64, "seconds": 0.02, "answers": 64}
    for _ in range(40):
        assert generator.ask(turn, 60)["errors"] == {}


def test_a_connection_that_ends_without_a_farewell_is_lost_like_any_other() -> None:
    class Ended:
        def send(self, data: bytes) -> int:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")

    lost = object.__new__(TlsSocket)
    lost._tls = Ended()  # type: ignore[assignment] # the end of a real one comes at no known time
    with pytest.raises(ConnectionResetError):
        lost.send(b"request")


def test_a_plain_server_is_an_error_for_each_connection(
    ports: dict[str, int], generator: MeasuredProcess, tmp_path: Path
) -> None:
    del ports
    with starting() as start:
        server = start(add_model(tmp_path))
        opened(generator, tmp_path, "json")
        found = generator.ask(saturate("json", server.port) | {"at_most": 0.3}, 60)
    assert found["answered"] == 0
    assert all(text.startswith("no connection over TLS: ") for text in found["errors"])


def test_the_generators_own_limit_is_measured_over_tls(
    generator: MeasuredProcess, tls: ServerTls, tmp_path: Path
) -> None:
    opened(generator, tmp_path, "json")
    found = generator_limit(
        generator, cpu_share(2), tmp_path / "canned", wire="json", connections=4, answer_bytes=50_000, tls=tls
    )
    assert found is not None
    assert found.requests_per_second > 20


def test_the_certificate_is_good_and_its_key_is_for_this_user_alone(tls: ServerTls) -> None:
    assert flaw_of(Path(tls.certificate), Path(tls.key)) is None
    assert S_IMODE(Path(tls.key).stat().st_mode) == 0o600
