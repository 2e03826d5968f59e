"""What the artifacts have to know of each backend's server: its base image, ports and paths, how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.backends.tensorflow_serving.config import METRICS_PATH, REST_PORT
from orchestrator.backends.tensorflow_serving.found import IMAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SERVERS", "Server"]

_PYTHON = "python:3.11-slim-bookworm"


@dataclass(frozen=True, slots=True)
class Server:
    """One backend's server in its container.

    Attributes:
        base, gpu_base: the image to build on for CPUs and for GPUs, where the spec names none. CUDA comes with the packages,
            the driver from outside.
        port: where requests go.
        metrics_port, metrics_path: where Prometheus reads.
        live_path: answers as long as a restart would not help, and is cheap; empty where only the port can tell.
        protocol: what a request's JSON is called.
        packaged: whether it runs on Python packages, which the image installs.
        answers_after_sigterm: whether it goes on while traffic is led away; else that has to happen before it is told.
        request_seconds: how long it lets requests finish at its end.
    """

    base: str
    gpu_base: str
    port: int
    metrics_port: int
    metrics_path: str
    live_path: str
    protocol: str
    packaged: bool
    answers_after_sigterm: bool
    request_seconds: int


SERVERS: Mapping[str, Server] = MappingProxyType(
    {
        "onnxruntime": Server(
            base=_PYTHON,
            gpu_base=_PYTHON,
            port=8080,
            metrics_port=8080,
            metrics_path="/metrics",
            live_path="/v2/health/live",
            protocol="JSON of the Open Inference Protocol v2",
            packaged=True,
            answers_after_sigterm=True,
            request_seconds=30,
        ),
        "torchserve": Server(
            base=_PYTHON,
            gpu_base=_PYTHON,
            port=8080,
            metrics_port=8082,
            metrics_path="/metrics",
            live_path="/ping",  # turns to 500 when the worker does not come back
            protocol="JSON of the Open Inference Protocol v2",
            packaged=True,
            answers_after_sigterm=False,
            request_seconds=30,
        ),
        "tensorflow-serving": Server(
            base=IMAGE,
            gpu_base=f"{IMAGE}-gpu",
            port=REST_PORT,
            metrics_port=REST_PORT,
            metrics_path=METRICS_PATH,
            live_path="",  # every path waits behind requests, so an overload would look like a death
            protocol="JSON of TensorFlow Serving's REST API",
            packaged=False,
            answers_after_sigterm=False,
            request_seconds=0,  # SIGTERM ends it at once
        ),
    }
)
"""Backend → its server; a test compares with `backends/table.py`."""
