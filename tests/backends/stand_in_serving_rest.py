"""The REST API of the stand-in for `tensorflow_model_server`: what is asked, and numbers as the server writes them."""

from __future__ import annotations

import base64
import json
import math
import re
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from tests.backends.stand_in_serving_core import Core, RequestError

__all__ = ["Handler", "Rest"]

_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict")
_ASK = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?")
_WHOLE = {tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64, tf.uint32, tf.uint64}


def _tensor(name: str, value: Any, dtype: Any) -> Any:
    """`FillTensorProto`: values of the right JSON type, at the right depth."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None

    def fill(item: Any, level: int) -> list[Any]:
        if not isinstance(item, list):
            if level != len(shape):
                raise RequestError(400, f"{name}: found at incorrect level: {level}")
            return [_value(name, item, dtype)]
        if level >= len(shape) or len(item) != shape[level]:
            raise RequestError(400, f"{name}: Encountered list at unexpected size: {len(item)}")
        return [leaf for child in item for leaf in fill(child, level + 1)]

    leaves = fill(value, 0)
    kind = object if dtype == tf.string else dtype.as_numpy_dtype
    return np.array(leaves, kind).reshape(shape)


def _value(name: str, item: Any, dtype: Any) -> Any:
    if dtype == tf.string and isinstance(item, dict) and list(item) == ["b64"]:
        return base64.b64decode(item["b64"], validate=True)
    if dtype == tf.string and isinstance(item, str):
        return item.encode()
    if dtype == tf.bool and isinstance(item, bool):
        return item
    if dtype in _WHOLE and isinstance(item, int) and not isinstance(item, bool):
        return item
    if dtype in {tf.float32, tf.float64} and isinstance(item, int | float) and not isinstance(item, bool):
        return item
    raise RequestError(400, f"JSON Value: {item!r} is not of expected type: {dtype.name} ({name})")


def _written(name: str, array: Any) -> str:
    """`AddTensorValues`: nested lists, with floats as `WriteDecimal` writes them."""
    if isinstance(array, np.ndarray) and array.ndim:
        return f"[{', '.join(_written(name, item) for item in array)}]"
    value = array.item() if hasattr(array, "item") else array
    if isinstance(value, bytes):
        if name.endswith("_bytes"):
            return json.dumps({"b64": base64.b64encode(value).decode()})
        return json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    if isinstance(value, bool | int):
        return json.dumps(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    short = f"{value:.6g}"
    if type(array)(short) != array:
        short = f"{value:.{9 if array.dtype == np.float32 else 17}g}"
    return short if "." in short or "e" in short else f"{short}.0"


class Handler(BaseHTTPRequestHandler):
    """The REST port."""

    protocol_version = "HTTP/1.1"
    core: Core
    limit: int | None
    metrics_path: str
    requests = 0

    def do_GET(self) -> None:
        if self.path == self.metrics_path:
            text = (
                f':tensorflow:serving:request_count{{model_name="{self.core.name}",status="OK"}} {Handler.requests}\n'
            )
            self._answer(200, text.encode(), "text/plain")
            return
        found = _ASK.fullmatch(self.path)
        if found is None:
            self._answer(404, b"", "text/html")
            return
        self._serve(lambda: self._metadata(found) if found[4] else self._status(found))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = _PREDICT.fullmatch(self.path)
        if found is None:
            self._answer(404, b"", "text/html")
            return
        self._serve(lambda: self._predict(found, body))

    def _serve(self, make: Any) -> None:
        try:
            status, content = 200, make()
        except RequestError as error:
            status, content = error.status, json.dumps({"error": str(error)}).encode()
        self._answer(status, content, "application/json")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _metadata(self, found: re.Match[str]) -> bytes:
        number, version = self.core.version(found[1], found[2], found[3])
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=dict(version.signatures))
        spec = {"name": found[1], "signature_name": "", "version": str(number)}
        found_signatures = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
        document = {"model_spec": spec, "metadata": {"signature_def": found_signatures}}
        return json.dumps(document).encode()

    def _status(self, found: re.Match[str]) -> bytes:
        with self.core.lock:
            states = dict.fromkeys(self.core.loaded, "AVAILABLE") | dict.fromkeys(self.core.errors, "END")
        if found[1] != self.core.name or not states:
            raise RequestError(404, f"Could not find any versions of model {found[1]}")
        rows = [{"version": str(number), "state": state} for number, state in sorted(states.items(), reverse=True)]
        return json.dumps({"model_version_status": rows}).encode()

    def _predict(self, found: re.Match[str], body: bytes) -> bytes:
        try:
            document = json.loads(body)
        except ValueError as error:
            raise RequestError(400, f"JSON Parse error: {error}") from error
        if not isinstance(document, dict) or "inputs" not in document:
            raise RequestError(400, "Missing 'inputs' or 'instances' key")
        _, version = self.core.version(found[1], found[2], found[3])
        if document.get("signature_name", "serving_default") not in version.signatures:
            raise RequestError(
                400, f'Serving signature name: "{document["signature_name"]}" not found in signature def'
            )
        given = document["inputs"]
        if not isinstance(given, dict) or (list(given) == ["b64"] and isinstance(given["b64"], str)):
            given = dict.fromkeys(version.inputs, given)
        if missing := set(version.inputs) - set(given):
            raise RequestError(400, f"Missing named input: {min(missing)} in 'inputs' object.")
        inputs = {name: _tensor(name, given[name], spec.dtype) for name, spec in version.inputs.items()}
        if self.limit is not None and any(len(array) > self.limit for array in inputs.values()):
            raise RequestError(400, f"Task size is larger than maximum input batch size {self.limit}")
        try:
            outputs = version.run(inputs)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise RequestError(400, str(error)) from error
        Handler.requests += 1
        written = {name: _written(name, np.asarray(array)) for name, array in outputs.items()}
        text = ", ".join(f"{json.dumps(name)}: {value}" for name, value in written.items())
        content = next(iter(written.values())) if len(written) == 1 else f"{{{text}}}"
        return f'{{\n    "outputs": {content}\n}}'.encode("utf-8", "surrogateescape")

    def log_message(self, *_: Any) -> None:
        """Nothing: the server logs no requests."""


class Rest(ThreadingHTTPServer):
    """Listens on all interfaces, as the server does."""

    address_family = socket.AF_INET6
    request_queue_size = 128
