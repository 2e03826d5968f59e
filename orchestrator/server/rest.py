"""The Open Inference Protocol v2 over HTTP, as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from . import VERSION
from .batcher import Job
from .binary import decode_binary, encode_binary
from .body import BodyReader
from .datatypes import Array
from .errors import RequestError
from .logs import fields
from .openapi import docs_page, openapi_document
from .protocol import decode_json, encode_json
from .request import InferRequest
from .service import Phase, Service

__all__ = ["RestApp"]

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Headers = Mapping[bytes, bytes]
_Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
_Page = Callable[[], _Answer]

_JSON = (b"content-type", b"application/json")
_WATCH_AFTER_S = 0.05
"""A request that is not answered by then is worth a task that notices its client hanging up."""
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_log = logging.getLogger("mlo.rest")


class RestApp:
    """See docs/server.md for the paths."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._body = BodyReader(service.config.max_body_bytes, service.config.request_timeout_s)
        model = service.model
        openapi, page = openapi_document(model), docs_page(model)
        self._pages: dict[str, _Page] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: _json(200, {"live": True}),
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": lambda: _json(200, openapi),
            "/docs": lambda: (200, [(b"content-type", b"text/html; charset=utf-8")], page),
        }
        self._infer_paths = set()
        for path in (f"/v2/models/{model.name}", f"/v2/models/{model.name}/versions/{model.version}"):
            self._pages[path] = self._model_metadata
            self._pages[f"{path}/ready"] = self._model_ready
            self._infer_paths.add(f"{path}/infer")

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        headers: _Headers = dict(scope["headers"])
        path = scope["path"]
        infers = path in self._infer_paths
        unread = scope["method"] not in {"GET", "HEAD"}
        try:
            if infers and scope["method"] == "POST":
                body = await self._body.read(headers, receive)
                unread = False
                answer = await self._infer(began, headers, body, receive)
            else:
                answer = self._page(path, scope["method"])
        except RequestError as error:
            if infers:
                self._service.count_error("http", error)
            self._log_error(scope, headers, error, began)
            answer = _error(error)
        await self._send(answer, headers, send, close=unread or self._service.phase is Phase.DRAINING)

    async def _send(self, answer: _Answer, headers: _Headers, send: _Send, *, close: bool) -> None:
        status, extra, body = answer
        extra.append((b"content-length", b"%d" % len(body)))
        request_id = headers.get(b"x-request-id")
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            extra.append((b"x-request-id", request_id))
        if close:
            # What is left of a body that nobody reads must not be taken for a request; and while draining, clients
            # that keep connections have to find another server for their next request.
            extra.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": extra})
        await send({"type": "http.response.body", "body": body})

    async def _infer(self, began: float, headers: _Headers, body: bytes, receive: _Receive) -> _Answer:
        read = time.monotonic()
        request = self._decode(headers, body)
        decoded = time.monotonic()
        job = self._service.submit(request)
        outputs = await self._outputs(job, receive)
        encoding = time.monotonic()
        answer = self._encode(request, outputs)
        self._service.count("http", job, began=began, read=read, decoded=decoded, encoding=encoding)
        return answer

    def _decode(self, headers: _Headers, body: bytes) -> InferRequest:
        signature = self._service.model.signature
        json_length = headers.get(b"inference-header-content-length")
        if json_length is None:
            return decode_json(body, signature)
        if not json_length.isdigit() or len(json_length) > 19:
            raise RequestError(400, "Inference-Header-Content-Length must be a number of bytes")
        return decode_binary(body, int(json_length), signature)

    def _encode(self, request: InferRequest, outputs: Mapping[str, Array]) -> _Answer:
        if any(wanted.binary for wanted in request.outputs):
            body, json_length = encode_binary(self._service.model, request, outputs)
            length_header = (b"inference-header-content-length", b"%d" % json_length)
            return 200, [(b"content-type", b"application/octet-stream"), length_header], body
        return 200, [_JSON], encode_json(self._service.model, request, outputs)

    async def _outputs(self, job: Job, receive: _Receive) -> Mapping[str, Array]:
        """The job's outputs; takes the job out of the queue if the client hangs up first."""
        loop = asyncio.get_running_loop()
        watchers: list[asyncio.Task[None]] = []
        timer = loop.call_later(_WATCH_AFTER_S, lambda: watchers.append(loop.create_task(self._watch(job, receive))))
        try:
            return await job.future
        except asyncio.CancelledError:
            if not job.future.cancelled():
                self._service.cancel(job)
                raise
            raise RequestError(499, "the client hung up", reason="cancelled") from None
        finally:
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()

    async def _watch(self, job: Job, receive: _Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._service.cancel(job)

    def _page(self, path: str, method: str) -> _Answer:
        if path in self._infer_paths:
            return _json(405, {"error": "use POST"}, (b"allow", b"POST"))
        page = self._pages.get(path)
        if page is None:
            raise RequestError(404, self._not_found(path), reason="not_found")
        if method not in {"GET", "HEAD"}:
            return _json(405, {"error": "use GET"}, (b"allow", b"GET, HEAD"))
        return page()

    def _not_found(self, path: str) -> str:
        model = self._service.model
        if path.startswith("/v2/models/"):
            return f"there is no such path; the model is {model.name!r}, version {model.version!r}"
        return "there is no such path"

    def _server_metadata(self) -> _Answer:
        return _json(200, {"name": "mlo", "version": VERSION, "extensions": ["binary_tensor_data"]})

    def _ready(self) -> _Answer:
        return _json(200 if self._service.ready else 503, {"ready": self._service.ready})

    def _model_ready(self) -> _Answer:
        return _json(
            200 if self._service.ready else 503, {"name": self._service.model.name, "ready": self._service.ready}
        )

    def _model_metadata(self) -> _Answer:
        model = self._service.model

        def described(tensors: Mapping[str, Any]) -> list[dict[str, Any]]:
            return [{"name": t.name, "datatype": t.datatype, "shape": t.wire_shape} for t in tensors.values()]

        return _json(
            200,
            {
                "name": model.name,
                "versions": [model.version],
                "platform": "onnxruntime_onnx",
                "inputs": described(model.signature.inputs),
                "outputs": described(model.signature.outputs),
            },
        )

    def _metrics(self) -> _Answer:
        return 200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], self._service.metrics.text()

    @staticmethod
    def _log_error(scope: Mapping[str, Any], headers: _Headers, error: RequestError, began: float) -> None:
        level = logging.ERROR if error.status >= 500 and error.reason == "failed" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        _log.log(
            level,
            error.message,
            extra=fields(
                method=scope["method"],
                path=scope["path"],
                status=error.status,
                reason=error.reason,
                ms=round((time.monotonic() - began) * 1e3, 3),
                request_id=_text(headers.get(b"x-request-id")),
                traceparent=_text(headers.get(b"traceparent")),
            ),
        )


def _json(status: int, document: Mapping[str, Any], *extra: tuple[bytes, bytes]) -> _Answer:
    return status, [_JSON, *extra], orjson.dumps(document)


def _error(error: RequestError) -> _Answer:
    extra = [] if error.retry_after is None else [(b"retry-after", b"%d" % error.retry_after)]
    return _json(error.status, {"error": error.message}, *extra)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:256].decode("latin-1")
