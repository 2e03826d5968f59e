"""The Open Inference Protocol v2 over gRPC, in front of the same queue as HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc  # type: ignore[import-untyped]  # no stubs are published for it
import grpc.aio  # type: ignore[import-untyped]  # as above
from google.protobuf.message import DecodeError

from . import VERSION
from . import open_inference_pb2 as pb
from .datatypes import Array
from .errors import UNAVAILABLE, RequestError, StartError
from .grpc_probes import add_probes
from .grpc_tensors import decode_message, encode_message
from .http_server import EVERYWHERE
from .instance import Answer, Job
from .logs import fields
from .secrets import Certificates
from .service import Service

__all__ = ["GrpcServer", "calls_at_once"]

_SERVICE = "inference.GRPCInferenceService"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_OPEN = frozenset({"ServerLive", "ServerReady"})
"""The calls that need no token, as over HTTP."""
_CALLS_AT_MOST, _CALLS_AT_LEAST = 4096, 256
_CALLS_BYTES = 4 << 30
"""The maximum memory of all calls, if each has the maximum size; at least `_CALLS_AT_LEAST` are accepted in any case."""

_TAKING_HOLD_S = 0.25
"""For which handshakes wait when the certificate has changed; what has to be done by then takes microseconds."""

_Call = Callable[[Any, Any], Awaitable[Any]]

_log = logging.getLogger("mlo.grpc")


class GrpcServer:
    """The gRPC port. Belongs to the event loop's thread."""

    def __init__(
        self,
        service: Service,
        host: str,
        port: int,
        certificates: Certificates | None,
        *,
        shared: bool = False,
        connection_s: float | None = None,
    ) -> None:
        """Bind the port.

        Args:
            service: answers.
            host: the address to listen on.
            port: 0 selects a free one.
            certificates: for TLS.
            shared: whether other processes may listen on the port too.
            connection_s: the age at which a client is told to connect anew; None for never.

        Raises:
            StartError: `UNAVAILABLE`; the port is taken.
        """
        self._service = service
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", service.config.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared)),
                ("grpc.max_concurrent_streams", 1024),
                # Keep-alive pings detect clients that vanished without closing.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                *([] if connection_s is None else [("grpc.max_connection_age_ms", round(connection_s * 1e3))]),
            ],
            maximum_concurrent_rpcs=calls_at_once(service.config.max_body_bytes),
        )
        calls: dict[str, tuple[_Call, Any, Any]] = {
            "ServerLive": (self._server_live, pb.ServerLiveRequest, pb.ServerLiveResponse),
            "ServerReady": (self._server_ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
            "ServerMetadata": (self._server_metadata, pb.ServerMetadataRequest, pb.ServerMetadataResponse),
            "ModelMetadata": (self._model_metadata, pb.ModelMetadataRequest, pb.ModelMetadataResponse),
            "ModelInfer": (self._model_infer, pb.ModelInferRequest, pb.ModelInferResponse),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._checked(name, _parsed(call, request_type)), None, answer.SerializeToString
            )
            for name, (call, request_type, answer) in calls.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        add_probes(self._server, service, _SERVICE)
        host = "::" if host == EVERYWHERE else host  # where there is no IPv6, grpcio takes IPv4
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if certificates is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, _credentials(certificates))
        except RuntimeError as error:
            raise StartError(UNAVAILABLE, f"cannot listen on {address} for gRPC") from error

    async def start(self) -> None:
        """Start serving."""
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, and give those in flight `grace_s` to finish."""
        await self._server.stop(grace_s)

    def _checked(self, name: str, call: _Call) -> _Call:
        """`call` for clients with a valid token, if tokens are configured."""
        tokens = self._service.tokens
        if tokens is None or name in _OPEN:
            return call

        async def check_and_call(data: bytes, context: Any) -> Any:
            given = _metadata(context).get("authorization", "")
            try:
                tokens.check(given.encode())
            except RequestError as error:
                self._service.count_error("grpc", error, time.monotonic(), None)
                await context.abort(_CODES[error.status], error.message)
            return await call(data, context)

        return check_and_call

    async def _server_live(self, _: Any, __: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Any, __: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        await self._check_model(request.name, request.version, context)
        return pb.ModelReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, _: Any, __: Any) -> Any:
        return pb.ServerMetadataResponse(name="mlo", version=VERSION)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        await self._check_model(request.name, request.version, context)
        model = self._service.model
        answer = pb.ModelMetadataResponse(name=model.name, versions=[model.version], platform=self._service.platform)
        for field, tensors in ((answer.inputs, model.signature.inputs), (answer.outputs, model.signature.outputs)):
            for tensor in tensors.values():
                field.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.wire_shape)
        return answer

    async def _check_model(self, name: str, version: str, context: Any) -> None:
        try:
            self._named(name, version)
        except RequestError as error:
            await context.abort(_CODES[error.status], error.message)

    def _named(self, name: str, version: str) -> None:
        model = self._service.model
        if name != model.name or version not in {"", model.version}:
            raise RequestError(
                404, f"no such model; this server has {model.name!r}, version {model.version!r}", reason="not_found"
            )

    async def _model_infer(self, message: Any, context: Any) -> Any:
        began = time.monotonic()
        try:
            return await self._infer(began, message, context)
        except RequestError as error:
            self._service.count_error("grpc", error, began, _traceparent(context))
            self._log_error(error, message, context, began)
            if error.retry_after is not None:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", str(error.retry_after * 1000)),))
            await context.abort(_CODES[error.status], error.message)

    async def _infer(self, began: float, message: Any, context: Any) -> Any:
        self._named(message.model_name, message.model_version)
        request = decode_message(message, self._service.model.signature)
        decoded = time.monotonic()
        future: asyncio.Future[Mapping[str, Array]] = asyncio.get_running_loop().create_future()
        job = self._service.submit(request, partial(_settle, future), context.time_remaining())
        try:
            outputs = await future
        except asyncio.CancelledError:
            self._service.cancel(job)
            gone = RequestError(499, "the client disconnected", reason="cancelled")
            self._service.count_error("grpc", gone, began, _traceparent(context))
            raise
        encoding = time.monotonic()
        answer = encode_message(self._service.model, request, outputs)
        self._service.count(
            "grpc",
            job,
            began=began,
            read=began,
            decoded=decoded,
            encoding=encoding,
            traceparent=_traceparent(context) if self._service.traced else None,
        )
        return answer

    @staticmethod
    def _log_error(error: RequestError, message: Any, context: Any, began: float) -> None:
        level = logging.ERROR if error.reason == "failed" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        metadata = _metadata(context)
        _log.log(
            level,
            error.message,
            extra=fields(
                method="ModelInfer",
                status=error.status,
                reason=error.reason,
                ms=round((time.monotonic() - began) * 1e3, 3),
                request_id=(metadata.get("x-request-id") or message.id)[:256] or None,
                traceparent=metadata.get("traceparent", "")[:256] or None,
            ),
        )


def calls_at_once(body_bytes: int) -> int:
    """The maximum number of concurrent calls: the message of each is in memory before the queue can refuse it."""
    return max(_CALLS_AT_LEAST, min(_CALLS_AT_MOST, _CALLS_BYTES // body_bytes))


def _settle(future: asyncio.Future[Mapping[str, Array]], _: Job, answer: Answer) -> None:
    if future.cancelled():  # in this turn of the loop; who waits for it has not run yet
        return
    if isinstance(answer, RequestError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _metadata(context: Any) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _traceparent(context: Any) -> str | None:
    return _metadata(context).get("traceparent")


def _credentials(certificates: Certificates) -> Any:
    """Credentials that follow the files when they change."""
    needs_client = len(certificates.contents) > 2
    given = certificates.contents

    def configuration() -> Any:
        certificate, key, *client_ca = given
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca[0] if client_ca else None)

    def renewed() -> Any:
        # Asked at the begin of each handshake, by one at a time. What gRPC replaces is freed under the feet of handshakes that
        # were asked before and have not taken hold of it yet, and the process dies (github.com/grpc/grpc/issues/36693, seen
        # with grpcio 1.85). So only what has changed is given anew, once those have had the time for it; all others wait.
        nonlocal given
        if certificates.contents is given:
            return None
        time.sleep(_TAKING_HOLD_S)
        given = certificates.contents
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, needs_client)


def _parsed(call: _Call, request_type: Any) -> _Call:
    """`call` with a parsed message; bytes that cannot be parsed are the client's error, not the server's."""

    async def parse_and_call(data: bytes, context: Any) -> Any:
        try:
            message = request_type.FromString(data)
        except DecodeError:
            return await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"the message is not a valid {request_type.DESCRIPTOR.name}"
            )
        return await call(message, context)

    return parse_and_call
