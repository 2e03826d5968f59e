"""What tools ask of any gRPC server: its health, for Kubernetes' probes and load balancers, and its services, for `grpcurl`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc  # type: ignore[import-untyped]  # no stubs are published for it
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # as above
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]  # as above

from . import open_inference_pb2
from .service import Phase, Service

__all__ = ["add_probes"]

_HEALTH = "grpc.health.v1.Health"
_LOOK_S = 0.2


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the base has no types
    """`grpc.health.v1`: the server as a whole (an empty name), the protocol's service, or the model, all equally ready."""

    def __init__(self, service: Service, names: frozenset[str]) -> None:
        self._service = service
        self._names = names

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """The health at the moment; NOT_FOUND for an unknown name."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def Watch(self, request: Any, _: Any) -> AsyncIterator[Any]:  # noqa: N802 - as above
        """The health, now and after each change; ends when the server stops, which would have to wait for it otherwise."""
        if request.service not in self._names:  # the protocol wants an answer here, not an error
            yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        last = None
        while last is None or self._service.phase is not Phase.DRAINING:
            if (status := self._status()) != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(_LOOK_S)
        if last != (status := self._status()):
            yield health_pb2.HealthCheckResponse(status=status)

    def _status(self) -> Any:
        answer = health_pb2.HealthCheckResponse
        return answer.SERVING if self._service.ready else answer.NOT_SERVING


def add_probes(server: Any, service: Service, protocol: str) -> None:
    """Add the health service, which needs no token, as over HTTP; and reflection, unless tokens are required.

    Args:
        server: before it is started.
        service: whose health is reported.
        protocol: the full name of the service that runs the model.
    """
    names = frozenset({"", protocol, service.model.name})
    health_pb2_grpc.add_HealthServicer_to_server(_Health(service, names), server)
    if service.tokens is None:
        pool = DescriptorPool()  # messages of the protocol are not in the default one
        for module in (open_inference_pb2, health_pb2, reflection_pb2):
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection((protocol, _HEALTH, reflection.SERVICE_NAME), server, pool)
