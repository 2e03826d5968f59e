"""ONNX models on the project's own server of the Open Inference Protocol v2 (`orchestrator/server`)."""

from __future__ import annotations

import importlib.util
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess, Launch, Program
from orchestrator.backends.folder import (
    body_limit,
    copy_file,
    json_text,
    largest_batch,
    model_file,
    read_json,
    write_file,
)
from orchestrator.backends.wire import decode_json, encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = ["ONNXRUNTIME", "OnnxRuntime"]

_NEEDED = ("onnxruntime", "uvloop", "httptools", "orjson", "prometheus_client")
_QUEUE_BATCHES = 32
"""Full batches that wait at most; what comes beyond is refused at once rather than answered too late."""


class OnnxRuntime:
    """See `orchestrator.backends.backend.Backend`."""

    name = "onnxruntime"
    formats: tuple[str, ...] = ("onnx",)
    runtimes: Mapping[str, InProcess] = MappingProxyType(
        {
            "onnx": InProcess("orchestrator.frameworks.onnx.runtime:open_onnx", ("onnxruntime",)),
        }
    )
    tools: tuple[str, ...] = ("onnxruntime", "uvloop", "httptools", "orjson", "prometheus-client", "numpy")
    least_startup = 60

    def unavailable(self, devices: int = 0) -> str | None:  # noqa: ARG002 - it says itself what it lacks
        """A package of the server that is missing, with the command that brings it."""
        missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
        if missing:
            return f"the package {missing[0]} is not installed; run: pip install 'mlo[server]'"
        return None

    def program(self, devices: int = 0) -> Program | None:  # noqa: ARG002
        """None: the server is mlo's own, and packages run it."""
        return None

    def notes(self, devices: int = 0) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    def devices(self, folder: Path) -> int:
        """As many as `server.json` names."""
        return len(read_json(folder / "server.json").get("devices", ()))

    def refuses(self, signature: Signature) -> str | None:  # noqa: ARG002
        """Nothing: it takes every dtype that a spec can name."""
        return None

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Leave `model.onnx` (with `model.onnx.data` where the variant has it) and `server.json`."""
        source = model_file(settings.format, variant)
        sha256 = copy_file(source, folder / "model.onnx")
        external = source.with_name("model.onnx.data")
        files = {external.name: copy_file(external, folder / external.name)} if external.is_file() else {}
        write_file(folder / "server.json", json_text(_server_config(settings, sha256, files)))

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The server on loopback; `threads` replaces the number in `server.json`."""
        argv = [sys.executable, "-m", "orchestrator.server", "--config", str(folder / "server.json")]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
        return Launch(argv=tuple(argv), env={"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)}, cwd=scratch)

    def ready_path(self, name: str) -> str:  # noqa: ARG002 - the server serves one model
        """True after the model is loaded and warm, false from SIGTERM on."""
        return "/v2/health/ready"

    def infer_path(self, name: str) -> str:
        """The protocol's path."""
        return f"/v2/models/{name}/infer"

    def encode(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, Mapping[str, str]]:
        """A call as JSON."""
        return encode_json(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],  # noqa: ARG002
        signature: Signature,  # noqa: ARG002
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs; the server answers JSON to what `encode` asks."""
        return decode_json(body)


def _server_config(settings: ServingSettings, sha256: str, files: Mapping[str, str]) -> dict[str, Any]:
    rows = largest_batch(settings.signature, settings.max_batch_size)
    sizes = [size for size in settings.batch_sizes if size <= rows]
    return {
        "format": 1,
        "model": {
            "name": settings.name,
            "version": "1",
            "file": "model.onnx",
            "sha256": sha256,
            "files": dict(files),
            "signature": settings.signature.as_json(),
            "labels": {
                "variant": settings.variant,
                "model_digest": settings.model_digest,
                "spec_digest": settings.spec_digest,
                "decision_digest": settings.decision_digest,
            },
        },
        "threads": max(settings.threads, settings.devices),
        "instances": 1,
        **_devices(settings),
        "max_batch_size": rows,
        **({"batch_sizes": sizes} if sizes else {}),
        "max_delay_us": round(settings.max_delay * 1e6),
        "queue_rows": rows * _QUEUE_BATCHES,
        "request_timeout_s": 30,
        "max_body_bytes": body_limit(settings.signature),
        "drain_seconds": settings.drain_seconds,
        "host": "0.0.0.0",  # noqa: S104 - inside a container; `launch` binds loopback
        "port": 8080,
        "log_level": "info",
    }


def _devices(settings: ServingSettings) -> dict[str, Any]:
    if not settings.devices:
        return {"provider": "CPUExecutionProvider"}
    return {
        "provider": "CUDAExecutionProvider",
        "devices": list(range(settings.devices)),
        "cuda_graphs": settings.cuda_graphs,
    }


ONNXRUNTIME = OnnxRuntime()
