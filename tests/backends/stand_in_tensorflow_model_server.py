"""A stand-in for `tensorflow_model_server`, which no package registry has: the same flags, files and REST API, on TensorFlow.

It follows the source of TensorFlow Serving 2.20 where mlo depends on it:

- flags: unknown ones and wrong types end it, and so do the combinations that the server turns down (`main.cc`, `server.cc`);
- models.config, batching.config and monitoring.config are parsed with the real messages;
- labels are read before models are loaded, and a label in use moves only to a version that is loaded; a configuration that
  is turned down for its labels changes nothing else (`ServerCore::ReloadConfig`);
- version folders are looked for once, or every so often (`FileSystemStoragePathSource`), new versions are loaded before
  former ones go, and warm-up records that fail, fail the load (`saved_model_warmup_util.cc`);
- REST: predict with `inputs`, metadata, status, labels, numbers as it writes them (`json_tensor.cc`), Prometheus' path.

What it is not: it batches nothing, and its gRPC socket only listens. Like the server it leaves SIGTERM to the kernel.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import re
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import get_model_metadata_pb2

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.backends.tensorflow_serving_messages import (
    BatchingParameters,
    ModelServerConfig,
    MonitoringConfig,
    PredictionLog,
)

_FLAGS: dict[str, tuple[type, Any]] = {
    "port": (int, 8500),
    "grpc_socket_path": (str, ""),
    "rest_api_port": (int, 0),
    "rest_api_num_threads": (int, 4),
    "rest_api_timeout_in_ms": (int, 30000),
    "enable_batching": (bool, False),
    "allow_version_labels_for_unavailable_models": (bool, False),
    "batching_parameters_file": (str, ""),
    "model_config_file": (str, ""),
    "model_config_file_poll_wait_seconds": (int, 0),
    "file_system_poll_wait_seconds": (int, 1),
    "max_num_load_retries": (int, 5),
    "monitoring_config_file": (str, ""),
    "tensorflow_session_parallelism": (int, 0),
    "tensorflow_intra_op_parallelism": (int, 0),
    "tensorflow_inter_op_parallelism": (int, 0),
    "enable_model_warmup": (bool, True),
    "enable_profiler": (bool, True),
}
_PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict")
_ASK = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata)?")
_WHOLE = {tf.int8, tf.uint8, tf.int16, tf.int32, tf.int64, tf.uint32, tf.uint64}


class RequestError(Exception):
    """Status and message of an answer that is none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _flags(argv: list[str]) -> argparse.Namespace:
    values = {name: default for name, (_, default) in _FLAGS.items()}
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals or name not in _FLAGS:
            _end(f"unknown argument: {argument}")
        kind = _FLAGS[name][0]
        if kind is bool and value not in {"true", "false"}:
            _end(f"{argument}: neither true nor false")
        values[name] = value == "true" if kind is bool else kind(value)
    flags = argparse.Namespace(**values)
    if flags.port == 0 and not flags.grpc_socket_path:
        _end("At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.")
    if flags.batching_parameters_file and not flags.enable_batching:
        _end("server_options.batching_parameters_file is set without setting server_options.enable_batching to true.")
    parallelism = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if all(parallelism) and flags.tensorflow_session_parallelism:
        _end("You cannot configure all.")
    if not all(parallelism):
        _end("the stand-in wants both parallelism flags: the default is the number of the host's cores")
    if flags.rest_api_num_threads < 2:
        _end("the event loop of the REST port takes a thread: with one alone nothing is answered")
    return flags


def _end(why: str) -> None:
    print(f"Failed to start server. Error: {why}", flush=True)
    os._exit(1)


def _parsed(path: str, message: Any) -> Any:
    return text_format.Parse(Path(path).read_bytes(), message)


class Version:
    """One loaded SavedModel."""

    def __init__(self, path: Path, *, warm: bool) -> None:
        self.model = tf.saved_model.load(str(path))
        self.call = self.model.signatures["serving_default"]
        self.inputs = self.call.structured_input_signature[1]
        graph = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
        self.signatures = graph.signature_def
        records = path / "assets.extra" / "tf_serving_warmup_requests"
        if warm and records.exists():
            count = 0
            for record in tf.data.TFRecordDataset(str(records)):
                request = PredictionLog.FromString(bytes(record.numpy())).predict_log.request
                if request.model_spec.signature_name not in self.signatures:
                    raise ValueError(f'Serving signature key "{request.model_spec.signature_name}" not found.')
                self.run({name: tf.make_ndarray(proto) for name, proto in request.inputs.items()})
                count += 1
            print(
                f"Finished reading warmup data for model at {records}. Number of warmup records read: {count}.",
                flush=True,
            )

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if set(inputs) != set(self.inputs):
            raise ValueError(f"input size does not match signature: {sorted(inputs)} != {sorted(self.inputs)}")
        outputs = self.call(**{name: tf.constant(value, self.inputs[name].dtype) for name, value in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class Core:
    """The versions of one model, and its labels."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.config = ModelServerConfig()
        self.source: Any = None
        self.labels: dict[str, int] = {}
        self.loaded: dict[int, Version] = {}
        self.errors: dict[int, str] = {}
        self.lock = threading.RLock()

    @property
    def name(self) -> str:
        return str(self.config.model_config_list.config[0].name)

    def reload(self, config: Any) -> None:
        """`ServerCore::ReloadConfig`, for one model."""
        (model,) = config.model_config_list.config
        if not model.base_path.startswith("/"):
            raise ValueError(f"Expected model {model.name} to have an absolute path or URI; got {model.base_path}")
        if model.model_platform != "tensorflow":
            raise ValueError("Illegal setting of model_platform")
        with self.lock:
            self.config = config
            labels = {}
            for label, version in model.version_labels.items():
                in_use = self.labels.get(label, version) != version
                allowed = self.flags.allow_version_labels_for_unavailable_models and not in_use
                if version not in self.loaded and not allowed:
                    raise ValueError(
                        f"Request to assign label to version {version} of model {model.name},"
                        " which is not currently available for inference"
                    )
                labels[label] = version
            self.labels = labels
            first = self.source is None
            self.source = model
        if first:
            self.poll_files()
            if not self.loaded or max([*self.loaded, *self.errors]) in self.errors:
                raise ValueError(f"model(s) did not become available: {self.errors or 'no versions found'}")

    def poll_files(self) -> None:
        """What `FileSystemStoragePathSource` finds, loaded, and then what is gone, unloaded."""
        base, policy = Path(self.source.base_path), self.source.model_version_policy
        there = {int(path.name): path for path in base.iterdir() if re.fullmatch(r"[0-9]+", path.name)}
        which = policy.WhichOneof("policy_choice")
        if which == "specific":
            there = {number: path for number, path in there.items() if number in policy.specific.versions}
        elif which != "all":
            there = dict(sorted(there.items())[-max(1, policy.latest.num_versions) :])
        for number, path in sorted(there.items()):
            if number in self.loaded or number in self.errors:
                continue
            try:
                version = Version(path, warm=self.flags.enable_model_warmup)
            except Exception as error:  # noqa: BLE001 - any failure of a load is a state of the version
                print(f"Loading servable: {{name: {self.name} version: {number}}} failed: {error}", flush=True)
                self.errors[number] = str(error)
                continue
            with self.lock:
                self.loaded[number] = version
            print(f"Successfully loaded servable version {{name: {self.name} version: {number}}}", flush=True)
        with self.lock:
            if any(number in self.loaded for number in there):
                self.loaded = {number: v for number, v in self.loaded.items() if number in there}

    def poll_config(self) -> None:
        try:
            self.reload(_parsed(self.flags.model_config_file, ModelServerConfig()))
        except (ValueError, text_format.ParseError, OSError) as error:
            print(f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error}", flush=True)

    def version(self, name: str, number: str | None, label: str | None) -> tuple[int, Version]:
        with self.lock:
            if name != self.name:
                raise RequestError(404, f"Servable not found for request: Latest({name})")
            if label is not None and label not in self.labels:
                raise RequestError(400, f"Unrecognized servable version label: {label}")
            wanted = self.labels[label] if label is not None else int(number) if number else max(self.loaded, default=0)
            if wanted not in self.loaded:
                raise RequestError(404, f"Servable not found for request: Specific({name}, {wanted})")
            return wanted, self.loaded[wanted]


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
        options = {"preserving_proto_field_name": True}
        document = {"model_spec": spec, "metadata": {"signature_def": json_format.MessageToDict(signatures, **options)}}
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


def _batch_limit(flags: argparse.Namespace) -> int | None:
    if not flags.enable_batching:
        return None
    batching = _parsed(flags.batching_parameters_file, BatchingParameters())
    sizes, largest = list(batching.allowed_batch_sizes), batching.max_batch_size.value
    if sizes and sizes[-1] != largest:
        _end(
            f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; expected {largest}"
        )
    if sizes != sorted(set(sizes)):
        _end("allowed_batch_sizes must be in increasing order")
    if batching.max_execution_batch_size.value > largest or batching.max_enqueued_batches.value < 1:
        _end("input_batch_size_limit must be greater than or equal to max_execution_batch_size")
    return int(largest)


def _every(seconds: int, what: Any) -> None:
    def loop() -> None:
        while True:
            time.sleep(seconds)
            what()

    if seconds > 0:
        threading.Thread(target=loop, daemon=True).start()


def main(argv: list[str]) -> None:
    """Start, and serve until the kernel ends it."""
    flags = _flags(argv)
    tf.config.threading.set_intra_op_parallelism_threads(flags.tensorflow_intra_op_parallelism)
    tf.config.threading.set_inter_op_parallelism_threads(flags.tensorflow_inter_op_parallelism)
    Handler.limit = _batch_limit(flags)
    Handler.metrics_path = _parsed(flags.monitoring_config_file, MonitoringConfig()).prometheus_config.path
    Handler.core = core = Core(flags)
    try:
        core.reload(_parsed(flags.model_config_file, ModelServerConfig()))
    except (ValueError, text_format.ParseError) as error:
        _end(str(error))
    _every(flags.file_system_poll_wait_seconds, core.poll_files)
    _every(flags.model_config_file_poll_wait_seconds, core.poll_config)
    grpc = socketserver.UnixStreamServer(flags.grpc_socket_path, socketserver.BaseRequestHandler)
    print(f"Running gRPC ModelServer at UNIX socket {flags.grpc_socket_path} ...", flush=True)
    with grpc, Rest(("::", flags.rest_api_port), Handler) as rest:
        print(f"Exporting HTTP/REST API at:localhost:{flags.rest_api_port} ...", flush=True)
        rest.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
