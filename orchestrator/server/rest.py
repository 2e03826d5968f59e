"""The Open Inference Protocol v2 over HTTP: routes and their answers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
import orjson

from . import VERSION
from .binary import encode_binary
from .cors import Cors
from .datatypes import Array
from .errors import RequestError
from .exchange import Answer, Request
from .header_cache import HeaderCache
from .instance import Answer as ModelAnswer
from .instance import Job
from .logs import fields
from .openapi import OPEN_PATHS, docs_page, openapi_document
from .protocol import decode_json, encode_json
from .request import InferRequest
from .service import Phase, Service

__all__ = ["RestApp"]

_Reply = Callable[[Request, Answer], None]
_Page = Callable[[], Answer]

_JSON = b"content-type: application/json\r\n"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

_log = logging.getLogger("mlo.rest")


class RestApp:
    """See docs/server.md for the paths, and `exchange.App` for the methods."""

    def __init__(self, service: Service) -> None:
        self._service = service
        model, origins = service.model, service.config.cors_origins
        self._cors = None if origins is None else Cors(origins)
        self._binary = HeaderCache(model.signature)
        openapi = orjson.dumps(openapi_document(model, token=service.tokens is not None))
        page = docs_page(model)
        self._pages: dict[str, _Page] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: _json(200, {"live": True}),
            "/v2/health/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": lambda: Answer(200, _JSON, openapi),
            "/docs": lambda: Answer(200, b"content-type: text/html; charset=utf-8\r\n", page),
        }
        self._infer_paths = set()
        for path in (f"/v2/models/{model.name}", f"/v2/models/{model.name}/versions/{model.version}"):
            self._pages[path] = self._model_metadata
            self._pages[f"{path}/ready"] = self._model_ready
            self._infer_paths.add(f"{path}/infer")
        self._known = {path.encode(): path for path in (*self._pages, *self._infer_paths)}

    @property
    def closing(self) -> bool:
        """While draining, keep-alive clients must reconnect to another server for their next request."""
        return self._service.phase is Phase.DRAINING

    def admit(self, request: Request) -> None:
        """Refuse what can be refused by its head.

        Raises:
            RequestError: 401, 404, 405 or 415.
        """
        path = self._path(request.target)
        tokens = self._service.tokens
        asks = self._cors is not None and self._cors.is_preflight(request)
        if tokens is not None and path not in OPEN_PATHS and not asks:
            tokens.check(request.headers.get(b"authorization", b""))
        if request.method == b"OPTIONS" and (
            path in self._pages or path in self._infer_paths or request.target == b"*"
        ):
            return
        if path in self._infer_paths:
            if request.method != b"POST":
                raise RequestError(405, "use POST", reason="method", headers="allow: OPTIONS, POST\r\n")
            encoding = request.headers.get(b"content-encoding", b"identity")
            if encoding.lower() != b"identity":
                raise RequestError(415, "compressed bodies are not supported", reason="encoding")
        elif path not in self._pages:
            raise RequestError(404, self._not_found(path), reason="not_found")
        elif request.method not in {b"GET", b"HEAD"}:
            raise RequestError(405, "use GET", reason="method", headers="allow: GET, HEAD, OPTIONS\r\n")

    def handle(self, request: Request, reply: _Reply) -> Answer | Callable[[], None]:
        """The answer for the path, or later the model's answer.

        Raises:
            RequestError: the inference is refused.
        """
        path = self._path(request.target)
        if request.method == b"OPTIONS":
            allowed = b"OPTIONS, POST" if path in self._infer_paths else b"GET, HEAD, OPTIONS"
            return self._with_headers(request, Answer(200, b"allow: %b\r\n" % allowed, b""))
        if path not in self._infer_paths:
            return self._with_headers(request, self._pages[path]())
        wanted = self._decode(request.headers, request.body)
        done = partial(self._answer, request, wanted, time.monotonic(), reply)
        return partial(self._take_back, request, self._service.submit(wanted, done))

    def _take_back(self, request: Request, job: Job) -> None:
        """The client disconnected."""
        self._service.cancel(job)
        self.refuse(request, RequestError(499, "the client disconnected", reason="cancelled"))

    def _answer(
        self, request: Request, wanted: InferRequest, decoded: float, reply: _Reply, job: Job, outputs: ModelAnswer
    ) -> None:
        """The model has answered."""
        if isinstance(outputs, RequestError):
            reply(request, self.refuse(request, outputs))
            return
        encoding = time.monotonic()
        try:
            answer = self._encode(wanted, outputs)
        except Exception:  # noqa: BLE001 - other requests' answers wait behind this one
            _log.exception("an answer could not be written")
            reply(request, self.refuse(request, RequestError(500, "the server failed", reason="failed")))
            return
        reply(request, self._with_headers(request, answer))
        self._service.count(
            "http",
            job,
            began=request.began,
            read=request.read,
            decoded=decoded,
            encoding=encoding,
            traceparent=request.headers.get(b"traceparent"),
        )

    def refuse(self, request: Request, error: RequestError) -> Answer:
        """The answer for an error, which is counted and logged."""
        if self._path(request.target) in self._infer_paths:
            self._service.count_error("http", error, request.began, request.headers.get(b"traceparent"))
        self._log_error(request, error)
        headers = b"%b%b" % (_JSON, error.headers.encode())
        return self._with_headers(request, Answer(error.status, headers, orjson.dumps({"error": error.message})))

    def _path(self, target: bytes) -> str:
        """The request's path, without query and escapes; empty if it has none."""
        known = self._known.get(target)
        if known is not None:
            return known
        try:
            path = httptools.parse_url(target).path
        except httptools.HttpParserInvalidURLError:
            return ""
        return unquote((path or b"").decode("latin-1"), errors="replace")

    def _with_headers(self, request: Request, answer: Answer) -> Answer:
        if self._cors is not None:
            answer = answer._replace(headers=answer.headers + self._cors.headers(request))
        request_id = request.headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            return answer
        return answer._replace(headers=b"%bx-request-id: %b\r\n" % (answer.headers, request_id))

    def _decode(self, headers: Mapping[bytes, bytes], body: bytes | bytearray) -> InferRequest:
        json_length = headers.get(b"inference-header-content-length")
        if json_length is None:
            return decode_json(body, self._service.model.signature)
        if not json_length.isdigit() or len(json_length) > 19:
            raise RequestError(400, "Inference-Header-Content-Length must be a number of bytes")
        return self._binary.decode(body, int(json_length))

    def _encode(self, request: InferRequest, outputs: Mapping[str, Array]) -> Answer:
        for wanted in request.outputs:
            if wanted.binary:
                body, length = encode_binary(self._service.model, request, outputs)
                line = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n" % length
                return Answer(200, line, body)
        return Answer(200, _JSON, encode_json(self._service.model, request, outputs))

    def _not_found(self, path: str) -> str:
        model = self._service.model
        if path.startswith("/v2/models/"):
            return f"no such path; the model is {model.name!r}, version {model.version!r}"
        return "there is no such path"

    def _server_metadata(self) -> Answer:
        return _json(200, {"name": "mlo", "version": VERSION, "extensions": ["binary_tensor_data"]})

    def _ready(self) -> Answer:
        return _json(200 if self._service.ready else 503, {"ready": self._service.ready})

    def _model_ready(self) -> Answer:
        return _json(
            200 if self._service.ready else 503, {"name": self._service.model.name, "ready": self._service.ready}
        )

    def _model_metadata(self) -> Answer:
        model = self._service.model

        def described(tensors: Mapping[str, Any]) -> list[dict[str, Any]]:
            return [
                {"name": t.name, "datatype": t.datatype, "shape": t.wire_shape}
                | ({} if t.allowed is None else {"parameters": t.allowed.as_parameters()})
                for t in tensors.values()
            ]

        return _json(
            200,
            {
                "name": model.name,
                "versions": [model.version],
                "platform": self._service.platform,
                "inputs": described(model.signature.inputs),
                "outputs": described(model.signature.outputs),
            },
        )

    def _metrics(self) -> Answer:
        return Answer(200, b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n", self._service.metrics.text())

    @staticmethod
    def _log_error(request: Request, error: RequestError) -> None:
        level = logging.ERROR if error.status >= 500 and error.reason == "failed" else logging.INFO
        if not _log.isEnabledFor(level):
            return
        _log.log(
            level,
            error.message,
            extra=fields(
                method=_text(request.method),
                path=_text(request.target),
                status=error.status,
                reason=error.reason,
                ms=round((time.monotonic() - request.began) * 1e3, 3),
                request_id=_text(request.headers.get(b"x-request-id")),
                traceparent=_text(request.headers.get(b"traceparent")),
            ),
        )


def _json(status: int, document: Any) -> Answer:
    return Answer(status, _JSON, orjson.dumps(document))


def _text(value: bytes | None) -> str | None:
    return value[:256].decode("latin-1") if value else None
