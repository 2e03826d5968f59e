"""A stand-in for `tensorflow_model_server`, which no package registry has: the same flags, files and REST API, on TensorFlow.

It follows the source of TensorFlow Serving 2.20 where mlo depends on it:

- flags: unknown ones and wrong types end it, and so do the combinations that the server turns down (`main.cc`, `server.cc`);
- models.config, batching.config and monitoring.config are parsed with the real messages;
- labels are read before models are loaded, and a label in use moves only to a version that is loaded; a configuration that
  is turned down for its labels changes nothing else (`ServerCore::ReloadConfig`);
- version folders are looked for once, or every so often (`FileSystemStoragePathSource`), new versions are loaded before
  former ones go, and warm-up records that fail, fail the load (`saved_model_warmup_util.cc`);
- REST: predict with `inputs`, metadata, status, labels, numbers as it writes them (`json_tensor.cc`), Prometheus' path.

The models are in `stand_in_serving_core.py`, the REST API in `stand_in_serving_rest.py`.

What it is not: it batches nothing, and its gRPC socket only listens. Like the server it leaves SIGTERM to the kernel.
"""

from __future__ import annotations

import argparse
import os
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf
from google.protobuf import text_format

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.backends.stand_in_serving_core import Core, parsed
from tests.backends.stand_in_serving_rest import Handler, Rest
from tests.backends.tensorflow_serving_messages import BatchingParameters, ModelServerConfig, MonitoringConfig

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


def _batch_limit(flags: argparse.Namespace) -> int | None:
    if not flags.enable_batching:
        return None
    batching = parsed(flags.batching_parameters_file, BatchingParameters())
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
    Handler.metrics_path = parsed(flags.monitoring_config_file, MonitoringConfig()).prometheus_config.path
    Handler.core = core = Core(flags)
    try:
        core.reload(parsed(flags.model_config_file, ModelServerConfig()))
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
