"""The content of TorchServe's configuration files, with reasons from the source of TorchServe 0.12.0, its last release."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.backends.folder import body_limit, largest_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backends.backend import ServingSettings

__all__ = ["LOG4J", "jvm_options", "local_properties", "manifest", "model_config", "number_of_gpu", "properties"]

VERSION = "1"
_HEAP = (128 * 2**20, 1024 * 2**20)
_MODEL_CONFIG_TYPES: dict[str, type] = {
    "minWorkers": int,
    "maxWorkers": int,
    "batchSize": int,
    "maxBatchDelay": int,
    "responseTimeout": int,
    "startupTimeout": int,
    "maxRetryTimeoutInSec": int,
    "clientTimeoutInMills": int,
    "jobQueueSize": int,
    "deviceType": str,
    "deviceIds": list,
    "mlo": dict,
}
"""With a value of the wrong type, TorchServe logs it and uses the default; it silently ignores unknown keys."""

LOG4J = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- Everything to standard output: the default also fills files of up to 500 MB each beside the process. -->
<Configuration>
  <Appenders>
    <Console name="STDOUT" target="SYSTEM_OUT">
      <PatternLayout pattern="%d{ISO8601} [%-5p] %c - %m%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Logger name="org.apache" level="off"/>
    <Logger name="ACCESS_LOG" level="off"/>
    <!-- Otherwise five lines for every batch. -->
    <Logger name="org.pytorch.serve.wlm" level="warn"/>
    <!-- Metrics are scraped, not logged. -->
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Root level="info">
      <AppenderRef ref="STDOUT"/>
    </Root>
  </Loggers>
</Configuration>
"""

_PROPERTIES = """\
# Inference for everybody; management on loopback whatever happens, since it can run any code.
inference_address=http://0.0.0.0:8080
management_address=http://127.0.0.1:8081
metrics_address=http://0.0.0.0:8082
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
# Key files are made anew at each start and expire after an hour, and /ping is behind them too, so a probe and a client
# that lives long cannot hold one. What protects instead: management on loopback, the model API off, the network policy.
disable_token_authorization=true
enable_model_api=false
# Models come from this folder alone, never from a URL (CVE-2023-43654), and install nothing.
allowed_urls=file://.*
use_env_allowed_urls=false
enable_envvars_config=false
install_py_dep_per_model=false
# What a worker has no business to know.
blacklist_env_vars=(?i)(AWS|AZURE|GOOGLE|GCP|KUBERNETES)_.*|.*(TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE).*
# The default is one worker for each core of the host; model-config.yaml says how many, and with which threads.
default_workers_per_model={workers}
number_of_gpu={devices}
load_models={name}
default_response_timeout={response}
default_startup_timeout={startup}
job_queue_size={queue}
max_request_size={body}
max_response_size={body}
# The handler reads the body itself; otherwise bad JSON is logged with all its bytes.
decode_input_request=false
# In the mode `log`, /metrics is empty. System metrics start a Python process every minute.
metrics_mode=prometheus
disable_system_metrics=true
model_metrics_auto_detect=false
"""

_RESPONSE_SECONDS = 30
_QUEUE_BATCHES = 32


def properties(settings: ServingSettings) -> str:
    """config.properties as it serves in a container, on ports 8080 (inference), 8081 (loopback) and 8082 (metrics)."""
    return _PROPERTIES.format(
        name=settings.name,
        response=_RESPONSE_SECONDS,
        startup=settings.startup_seconds,
        queue=_queue(settings),
        body=body_limit(settings.signature),
        workers=_workers(settings),
        devices=settings.devices,
    )


def number_of_gpu(text: str) -> int:
    """How many GPUs a config.properties that `properties` wrote is for.

    Raises:
        ValueError: it does not say so.
    """
    found = re.search(r"^number_of_gpu=([0-9]+)$", text, re.MULTILINE)
    if found is None:
        raise ValueError("config.properties has no number_of_gpu")
    return int(found[1])


def local_properties(text: str, port: int, sockets: str) -> str:
    """config.properties for this machine: one port on loopback, management and metrics on sockets.

    Args:
        text: what `properties` wrote.
        port: of inference.
        sockets: the folder of the sockets.
    """
    local = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"unix:{sockets}/management.sock",
        "metrics_address": f"unix:{sockets}/metrics.sock",
    }
    # gRPC cannot be switched off; the kernel gives it ports that are free.
    lines = [line for line in text.splitlines() if line.partition("=")[0] not in local]
    lines += [f"{key}={value}" for key, value in local.items()]
    return "\n".join([*lines, "grpc_inference_port=0", "grpc_management_port=0"]) + "\n"


def model_config(settings: ServingSettings, file: str) -> str:
    """model-config.yaml: one worker that gets whole batches, or one for each device.

    Workers get the devices in the order of `deviceIds`; without it the first would get the second. Where TorchServe does not
    find as many devices, it silently uses the CPU, so the configuration tells the handler which device it must get.

    `batchSize` counts requests, not rows; the handler keeps the number of rows that go together within `max_rows`.
    """
    rows = largest_batch(settings.signature, settings.max_batch_size)
    return checked_yaml(
        {
            "minWorkers": _workers(settings),
            "maxWorkers": _workers(settings),
            "batchSize": rows,
            # Zero means the default of 100 ms to TorchServe, so the least is 1.
            "maxBatchDelay": max(1, math.ceil(settings.max_delay * 1000)),
            "responseTimeout": _RESPONSE_SECONDS,
            "startupTimeout": settings.startup_seconds,
            # For so long a worker that dies again and again counts as healthy in /ping; the default is 5 minutes.
            "maxRetryTimeoutInSec": 30,
            "clientTimeoutInMills": _RESPONSE_SECONDS * 1000,
            "jobQueueSize": _queue(settings),
            **(
                {"deviceType": "gpu", "deviceIds": list(range(settings.devices))}
                if settings.devices
                else {"deviceType": "cpu"}
            ),
            "mlo": {
                "file": file,
                "max_rows": rows,
                "threads": settings.threads,
                "workers": _workers(settings),
                "accelerator": "cuda" if settings.devices else "none",
            },
        }
    )


def _workers(settings: ServingSettings) -> int:
    return max(1, settings.devices)


def checked_yaml(document: Mapping[str, Any]) -> str:
    """YAML of a model configuration whose keys and types TorchServe takes.

    Raises:
        ValueError: a key that is unknown, or a value of another type or below one.
    """
    for key, value in document.items():
        expected = _MODEL_CONFIG_TYPES.get(key)
        if expected is None:
            raise ValueError(f"model-config.yaml: TorchServe has no key {key}")
        if type(value) is not expected or (isinstance(value, int) and value < 1):
            raise ValueError(f"model-config.yaml: {key} must be a positive {expected.__name__}, not {value!r}")
    text: str = yaml.safe_dump(dict(document), sort_keys=False)
    return text


def manifest(settings: ServingSettings) -> dict[str, Any]:
    """MAR-INF/MANIFEST.json without the time that the archiver would put in."""
    return {
        "archiverVersion": "0.12.0",
        "createdOn": "-",
        "runtime": "python",
        "model": {
            "configFile": "model-config.yaml",
            "handler": "handler.py",
            "modelName": settings.name,
            "modelVersion": VERSION,
        },
    }


def jvm_options(settings: ServingSettings) -> str:
    """Java's options, as a file that `java @jvm.options` reads: the front end takes an eighth of the memory at most."""
    heap = min(max(settings.memory // 8, _HEAP[0]), _HEAP[1]) // 2**20
    options = [
        f"-Xmx{heap}m",
        f"-XX:ActiveProcessorCount={settings.threads}",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # otherwise a file in /tmp, wherever the temporary folder is
    ]
    return "\n".join(options) + "\n"


def _queue(settings: ServingSettings) -> int:
    return max(100, largest_batch(settings.signature, settings.max_batch_size) * _QUEUE_BATCHES)
