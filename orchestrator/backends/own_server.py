"""Base of the backends with mlo's own server (`orchestrator/server`): ONNX models with the Open Inference Protocol v2."""

from __future__ import annotations

import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import Launch, Server, ServingBackend, Unavailable
from orchestrator.backends.folder import body_limit, copy_file, largest_batch, model_file
from orchestrator.backends.own_metrics import OWN_METRICS
from orchestrator.backends.server_json import Labels, ServedModel, ServerJson

if TYPE_CHECKING:
    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = ["SERVER_TOOLS", "OwnServer"]

SERVER_TOOLS = ("uvloop", "httptools", "orjson", "prometheus-client", "numpy")
"""The packages that the server needs in addition to the runtime."""

_CODE = Path(__file__).parents[1] / "server"
_BASE = "python:3.11-slim-bookworm"
_PORT = 8080
_GRPC_PORT = 8081
"""As other servers of the protocol have it: KServe's and MLServer's."""
_QUEUE_BATCHES = 32
"""The maximum number of full batches in the queue; further requests are refused at once instead of answered too late."""


class OwnServedModel(ServedModel):
    """The model with its files, relative to the folder, and their sha256."""

    version: str
    file: str
    sha256: str
    files: Mapping[str, str] = {}


class OwnServerJson(ServerJson):
    """The server's settings, with those that mlo does not render; docs/server.md explains them, and the server checks values."""

    model: OwnServedModel
    runtime: str | None = None
    provider: str
    graph_optimization: str | None = None
    spinning: bool | None = None
    memory_arena: bool | None = None
    devices: tuple[int, ...] | None = None
    cuda_graphs: bool | None = None
    threads: int | None = None
    instances: int
    max_batch_size: int
    batch_sizes: tuple[int, ...] | None = None
    max_delay_us: int
    queue_rows: int
    request_timeout_s: int | float
    max_body_bytes: int
    drain_seconds: int | float
    host: str
    port: int
    grpc_port: int | None = None
    grpc_connection_seconds: float | None = None
    max_connections: int | None = None
    keep_alive_seconds: float | None = None
    tls: Mapping[str, str | None] | None = None
    token_file: str | None = None
    cors_origins: tuple[str, ...] | None = None
    traces: Mapping[str, str | float] | None = None
    log_level: str


class OwnServer(ServingBackend):
    """mlo's own server; a backend adds the runtime."""

    least_memory = 40 * 2**20  # of 55 with OpenVINO and 58 with ONNX Runtime

    modules: Mapping[str, str]
    """Module that the server imports → the extra of mlo that installs it."""

    enforces = True
    own_settings = frozenset({"limits", "auth", "tls", "cors", "traces"})
    extras = MappingProxyType(
        {
            "grpc": "gRPC of mlo's own server, which only has REST without it",
            "tls": "TLS of mlo's own server, which is refused while planning without it",
            "traces": "traces of mlo's own server, which does not start without it if they are enabled",
        }
    )
    sources = (_CODE,)
    wires = ("json", "binary", "grpc")
    grpc_tools = ("grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf")
    traces_tools = (
        "opentelemetry-api",
        "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry-sdk",
    )
    server = Server(
        dockerfile="mlo-server.Dockerfile.jinja",
        base=_BASE,
        gpu_base=_BASE,
        port=_PORT,
        grpc_port=_GRPC_PORT,
        metrics_port=8080,
        metrics_path="/metrics",
        metrics=OWN_METRICS,
        live_path="/v2/health/live",
        protocol="JSON of the Open Inference Protocol v2",
        request_seconds=30,
        answers_after_sigterm=True,
        at_once=("--drain-seconds", "0"),
        code={"mlo_server": _CODE},
    )

    @abstractmethod
    def session_settings(self, settings: ServingSettings) -> Mapping[str, Any]:
        """The settings of `server.json` for the runtime and its devices."""

    def unavailable(self, devices: int = 0) -> Unavailable | None:  # noqa: ARG002 - the server reports missing devices itself
        """A package of the server that is missing, with the command that installs it."""
        for module, extra in self.modules.items():
            if not _is_installed(module):
                return Unavailable(f"the package {module} is not installed", f"pip install 'mlo[{extra}]'")
        return None

    def devices(self, folder: Path) -> int:
        """The number of devices in `server.json`."""
        return len(OwnServerJson.read(folder).devices or ())

    def signature(self, folder: Path, name: str) -> Signature:  # noqa: ARG002 - the server serves one model
        """The signature in `server.json`."""
        return OwnServerJson.read(folder).model.signature

    def max_body(self, folder: Path) -> int:
        """`max_body_bytes` of `server.json`."""
        return OwnServerJson.read(folder).max_body_bytes

    def token_file(self, folder: Path) -> Path | None:
        """`token_file` of `server.json`."""
        file = OwnServerJson.read(folder).token_file
        return None if file is None else Path(file)

    def certificate(self, folder: Path) -> Path | None:
        """`tls.certificate` of `server.json`."""
        tls = OwnServerJson.read(folder).tls
        return None if tls is None or tls["certificate"] is None else Path(tls["certificate"])

    def queue(self, folder: Path, name: str) -> str:  # noqa: ARG002 - the server serves one model
        """`queue_rows` of `server.json`."""
        return f"{OwnServerJson.read(folder).queue_rows} rows"

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Write `model.onnx` (with `model.onnx.data` if the variant has it) and `server.json`."""
        source = model_file(settings.format, variant)
        sha256 = copy_file(source, folder / "model.onnx")
        external = source.with_name("model.onnx.data")
        files = {external.name: copy_file(external, folder / external.name)} if external.is_file() else {}
        _server_json(settings, sha256, files, self.session_settings(settings)).write(folder)

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The server on loopback; `threads` replaces the number in `server.json`."""
        argv = [sys.executable, "-m", "orchestrator.server", "--config", str(folder / OwnServerJson.FILE)]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--threads", str(threads)]
        env = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)}
        grpc = "--grpc-port" if OwnServerJson.read(folder).grpc_port is not None else None
        return Launch(argv=tuple(argv), env=env, cwd=scratch, grpc_port=grpc, handover="--handover")

    def ready_path(self, name: str) -> str:  # noqa: ARG002 - the server serves one model
        """True after the model is loaded and warm, false from SIGTERM on."""
        return "/v2/health/ready"


@cache
def _is_installed(module: str) -> bool:
    """Whether a package is there; looked up once, since planning asks for every spec."""
    return importlib.util.find_spec(module) is not None


def _server_json(
    settings: ServingSettings, sha256: str, files: Mapping[str, str], session: Mapping[str, Any]
) -> OwnServerJson:
    rows, limits = largest_batch(settings.signature, settings.max_batch_size), settings.limits
    return OwnServerJson(
        model=OwnServedModel(
            name=settings.name,
            version="1",
            file="model.onnx",
            sha256=sha256,
            files=dict(files),
            signature=settings.signature,
            labels=Labels.of(settings),
        ),
        threads=max(settings.threads, settings.devices),
        instances=settings.options.instances,
        max_batch_size=rows,
        batch_sizes=tuple(size for size in settings.batch_sizes if size <= rows) or None,
        max_delay_us=round(settings.max_delay * 1e6),
        queue_rows=limits.queue or rows * _QUEUE_BATCHES,
        request_timeout_s=limits.request_timeout or 30,
        max_body_bytes=limits.max_body or body_limit(settings.signature),
        max_connections=limits.max_connections,
        drain_seconds=settings.drain_seconds,
        host="*",  # inside a container; `launch` binds loopback
        port=_PORT,
        grpc_port=_GRPC_PORT if settings.grpc else None,
        token_file=None if settings.auth is None else settings.auth.token_file,
        tls=None if settings.tls is None else {"certificate": settings.tls.certificate, "key": settings.tls.key},
        cors_origins=settings.cors_origins or None,
        traces=None if settings.traces is None else asdict(settings.traces),
        log_level="info",
        **session,
    )
