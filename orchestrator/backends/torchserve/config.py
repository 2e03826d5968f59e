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
<!-- Everything goes to standard output; the default also writes files of up to 500 MB each to the working directory. -->
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
    <!-- Otherwise it logs five lines for every batch. -->
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
# Inference listens on all addresses, of IPv6 too, as Java reads 0.0.0.0; management only on loopback, because it can run arbitrary code.
inference_address=http://0.0.0.0:8080
management_address=http://127.0.0.1:8081
metrics_address=http://0.0.0.0:8082
grpc_inference_address=127.0.0.1
grpc_management_address=127.0.0.1
# Key files are generated at each start, expire after an hour and are required for /ping too, so probes and long-lived
# clients cannot use them. Instead: management on loopback, the model API turned off, and a network policy.
disable_token_authorization=true
enable_model_api=false
# Models are only loaded from files, never from a URL (CVE-2023-43654), and do not install packages.
allowed_urls=file://.*
use_env_allowed_urls=false
enable_envvars_config=false
install_py_dep_per_model=false
# Secrets in the environment are not passed on to workers.
blacklist_env_vars=(?i)(AWS|AZURE|GOOGLE|GCP|KUBERNETES)_.*|.*(TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE).*
# The default is one worker for each core of the host; model-config.yaml sets their number and threads.
default_workers_per_model={workers}
number_of_gpu={devices}
load_models={name}
default_response_timeout={response}
default_startup_timeout={startup}
job_queue_size={queue}
max_request_size={body}
max_response_size={body}
# The handler parses the body itself; otherwise invalid JSON is logged with all its bytes.
decode_input_request=false
# With the mode `log`, /metrics is empty. System metrics start a Python process every minute.
metrics_mode=prometheus
disable_system_metrics=true
model_metrics_auto_detect=false
"""

_RESPONSE_SECONDS = 30
_QUEUE_BATCHES = 32


def properties(settings: ServingSettings) -> str:
    """config.properties for a container: ports 8080 (inference), 8081 (management, on loopback) and 8082 (metrics)."""
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
    """The number of GPUs in a config.properties that `properties` returned.

    Raises:
        ValueError: it is not there.
    """
    found = re.search(r"^number_of_gpu=([0-9]+)$", text, re.MULTILINE)
    if found is None:
        raise ValueError("config.properties has no number_of_gpu")
    return int(found[1])


def local_properties(text: str, port: int, sockets: str) -> str:
    """config.properties for this machine: one port on loopback, management and metrics on sockets.

    Args:
        text: a config.properties that `properties` returned.
        port: of inference.
        sockets: the folder of the sockets.
    """
    local = {
        "inference_address": f"http://127.0.0.1:{port}",
        "management_address": f"unix:{sockets}/management.sock",
        "metrics_address": f"unix:{sockets}/metrics.sock",
    }
    # gRPC cannot be turned off; port 0 lets the kernel choose free ports.
    lines = [line for line in text.splitlines() if line.partition("=")[0] not in local]
    lines += [f"{key}={value}" for key, value in local.items()]
    return "\n".join([*lines, "grpc_inference_port=0", "grpc_management_port=0"]) + "\n"


def model_config(settings: ServingSettings, file: str) -> str:
    """model-config.yaml: one worker that gets whole batches, or one for each device.

    Workers get the devices in the order of `deviceIds`; without it, the first worker would get the second device. If
    TorchServe finds fewer devices, it silently uses the CPU, so the configuration tells the handler which device to expect.

    `batchSize` counts requests, not rows; the handler limits the rows of one call to `max_rows`.
    """
    rows = largest_batch(settings.signature, settings.max_batch_size)
    return checked_yaml(
        {
            "minWorkers": _workers(settings),
            "maxWorkers": _workers(settings),
            "batchSize": rows,
            # TorchServe replaces 0 by its default of 100 ms, so the minimum is 1.
            "maxBatchDelay": max(1, math.ceil(settings.max_delay * 1000)),
            "responseTimeout": _RESPONSE_SECONDS,
            "startupTimeout": settings.startup_seconds,
            # A worker that crashes repeatedly counts as healthy in /ping for this long; the default is 5 minutes.
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
    """A model configuration as YAML, with only keys and types that TorchServe accepts.

    Raises:
        ValueError: a key is unknown, or a value has another type or is below one.
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
    """MAR-INF/MANIFEST.json, without the time that TorchServe's archiver would write."""
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
    """The options file for `java @jvm.options`: the front end gets at most an eighth of the memory."""
    heap = min(max(settings.memory // 8, _HEAP[0]), _HEAP[1]) // 2**20
    options = [
        f"-Xmx{heap}m",
        f"-XX:ActiveProcessorCount={settings.threads}",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",  # otherwise Java writes a file to /tmp, wherever the temporary folder is
    ]
    return "\n".join(options) + "\n"


def queue_size(text: str) -> int:
    """How many requests may wait, from the text that `model_config` made."""
    size: int = yaml.safe_load(text)["jobQueueSize"]
    return size


def _queue(settings: ServingSettings) -> int:
    return max(100, largest_batch(settings.signature, settings.max_batch_size) * _QUEUE_BATCHES)
