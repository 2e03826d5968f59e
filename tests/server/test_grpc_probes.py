"""Health and reflection over gRPC, asked by the clients that gRPC's own packages bring: as Kubernetes' probes and grpcurl do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")

from google.protobuf.descriptor_pool import DescriptorPool  # noqa: E402 - after the check that grpcio is there
from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]  # noqa: E402 - no stubs are published
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]  # noqa: E402 - as above
    ProtoReflectionDescriptorDatabase,
)

from tests.server.conftest import Running, Start, add_model, starting  # noqa: E402

pytestmark = pytest.mark.frameworks

PROTOCOL = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        yield start(add_model(tmp_path_factory.mktemp("add"), grpc_port=0))


@pytest.fixture(scope="module")
def channel(server: Running) -> Iterator[Any]:
    with open_channel(server) as channel:
        yield channel


def open_channel(server: Running) -> Any:
    return grpc.insecure_channel(f"127.0.0.1:{server.wait_for_log('live')['grpc_port']}")


def status(channel: Any, name: str) -> str:
    answer = HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("name", ["", PROTOCOL, "m"])
def test_a_ready_server_is_healthy(channel: Any, name: str) -> None:
    assert status(channel, name) == "SERVING"


def test_a_name_that_is_not_served_is_not_found(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        status(channel, "other")
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    (answer,) = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_who_watches_is_told_when_the_server_stops_and_does_not_hold_it_up(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, grpc_port=0, drain_seconds=1))
    with open_channel(server) as channel:
        watched = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert [answer.status for answer in watched] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        stopping.join()
    assert server.process.returncode == 0


def test_the_services_and_their_messages_can_be_read(channel: Any) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {PROTOCOL, "grpc.health.v1.Health"} <= set(database.get_services())
    pool = DescriptorPool(database)
    methods = {method.name for method in pool.FindServiceByName(PROTOCOL).methods}
    assert {"ModelInfer", "ServerReady"} <= methods
    assert "raw_input_contents" in pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name


def test_with_tokens_health_is_open_and_services_are_not_listed(tmp_path: Path, start: Start) -> None:
    token = tmp_path / "tokens"
    token.write_text("0123456789abcdef0123\n", encoding="utf-8")
    server = start(add_model(tmp_path, grpc_port=0, token_file=str(token)))
    with open_channel(server) as channel:
        assert status(channel, "m") == "SERVING"
        with pytest.raises(grpc.RpcError) as raised:
            ProtoReflectionDescriptorDatabase(channel).get_services()
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
