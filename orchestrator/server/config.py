"""Reads server.json strictly, so that a misspelled setting is an error instead of being ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .datatypes import DATATYPES
from .errors import BAD_CONFIG, StartError
from .signature import Allowed, Signature, Tensor

__all__ = [
    "CUDA",
    "GRAPH_OPTIMIZATION",
    "LOG_LEVELS",
    "RUNTIMES",
    "ModelConfig",
    "ServerConfig",
    "TlsConfig",
    "TracesConfig",
    "load_config",
]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
RUNTIMES = ("onnxruntime", "openvino")
GRAPH_OPTIMIZATION = ("all", "extended", "basic", "disabled")
LOG_LEVELS = ("debug", "info", "warning", "error")
_LABELS = ("variant", "model_digest", "decision_digest")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ORIGIN = re.compile(r"\*|https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
_COLLECTOR = re.compile(
    r"https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The model: its files with their expected digests, its signature, and labels for metrics."""

    name: str
    version: str
    file: Path
    sha256: str
    signature: Signature
    labels: Mapping[str, str]
    files: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """PEM files; with `client_ca`, clients must present a certificate signed by it."""

    certificate: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class TracesConfig:
    """Where spans are sent, a URL without OTLP's `/v1/traces`, and the fraction of the traces that begin here."""

    endpoint: str
    sample: float


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A checked server.json. docs/server.md explains the settings."""

    model: ModelConfig
    threads: int | None
    instances: int
    runtime: str
    provider: str
    devices: tuple[int, ...] | None
    cuda_graphs: bool
    graph_optimization: str
    spinning: bool
    memory_arena: bool
    max_batch_size: int
    batch_sizes: tuple[int, ...] | None
    max_delay_us: int
    queue_rows: int
    request_timeout_s: float
    max_body_bytes: int
    max_connections: int
    keep_alive_seconds: float
    drain_seconds: float
    host: str
    port: int
    grpc_port: int | None
    grpc_connection_seconds: float | None
    tls: TlsConfig | None
    token_file: Path | None
    cors_origins: tuple[str, ...] | None
    traces: TracesConfig | None
    log_level: str

    @property
    def sessions(self) -> tuple[int | None, ...]:
        """The device of every session; each device has `instances` sessions; None is the CPU."""
        devices: tuple[int | None, ...] = (None,) if self.devices is None else self.devices
        return devices * self.instances


class _SettingError(Exception):
    """A setting that is missing, unknown or wrong."""


class _Section:
    """Reads a JSON object: every key is taken once, and no key may be left over."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _SettingError(f"{where or 'the document'} must be an object, not {_kind(value)}")
        self._left = dict(value)
        self._where = where

    def path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        """Whether an optional key has a value; null counts as missing."""
        if key in self._left and self._left[key] is None:
            del self._left[key]
        return key in self._left

    def take(self, key: str) -> Any:
        if key not in self._left:
            raise _SettingError(f"{self.path(key)} is missing")
        return self._left.pop(key)

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise _SettingError(f"{self.path(key)} must be a non-empty string, not {_kind(value)}")
        if pattern is not None and not pattern.fullmatch(value):
            raise _SettingError(f"{self.path(key)} must match {pattern.pattern}, not {value!r}")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise _SettingError(f"{self.path(key)} must be one of {', '.join(choices)}, not {value!r}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.take(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _SettingError(f"{self.path(key)} must be an integer from {low} to {high}, not {_kind(value)}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        value = self.take(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _SettingError(f"{self.path(key)} must be a number from {low:g} to {high:g}, not {_kind(value)}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.take(key)
        if not isinstance(value, bool):
            raise _SettingError(f"{self.path(key)} must be true or false, not {_kind(value)}")
        return value

    def left(self) -> list[str]:
        return list(self._left)

    def items(self, key: str) -> list[Any]:
        value = self.take(key)
        if not isinstance(value, list):
            raise _SettingError(f"{self.path(key)} must be a list, not {_kind(value)}")
        return value

    def finish(self) -> None:
        if self._left:
            raise _SettingError(f"{self.path(min(self._left))} is an unknown setting")


def load_config(path: Path) -> ServerConfig:
    """Read and check `path`.

    Raises:
        StartError: `BAD_CONFIG`; the message names the file, the setting and the expected value.
    """
    try:
        return _server(orjson.loads(path.read_bytes()), path.parent)
    except OSError as error:
        raise StartError(BAD_CONFIG, f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise StartError(BAD_CONFIG, f"{path}: not JSON: {error}") from error
    except _SettingError as error:
        raise StartError(BAD_CONFIG, f"{path}: {error}") from error


def _server(document: Any, folder: Path) -> ServerConfig:
    section = _Section(document, "")
    section.integer("format", 2, 2)
    config = ServerConfig(
        model=_model(section.take("model"), folder),
        threads=section.integer("threads", 1, 1024) if section.has("threads") else None,
        instances=section.integer("instances", 1, 64),
        runtime=section.choice("runtime", RUNTIMES) if section.has("runtime") else "onnxruntime",
        provider=section.text("provider", re.compile(r"[A-Za-z]+ExecutionProvider")),
        devices=_devices(section) if section.has("devices") else None,
        cuda_graphs=section.flag("cuda_graphs") if section.has("cuda_graphs") else False,
        graph_optimization=(
            section.choice("graph_optimization", GRAPH_OPTIMIZATION) if section.has("graph_optimization") else "all"
        ),
        spinning=section.flag("spinning") if section.has("spinning") else False,
        memory_arena=section.flag("memory_arena") if section.has("memory_arena") else True,
        max_batch_size=section.integer("max_batch_size", 1, 65536),
        batch_sizes=_sizes(section) if section.has("batch_sizes") else None,
        max_delay_us=section.integer("max_delay_us", 0, 10_000_000),
        queue_rows=section.integer("queue_rows", 1, 1_000_000),
        request_timeout_s=section.number("request_timeout_s", 0.001, 3600),
        max_body_bytes=section.integer("max_body_bytes", 1, 1 << 31),
        max_connections=section.integer("max_connections", 1, 1 << 20) if section.has("max_connections") else 16384,
        keep_alive_seconds=(
            section.number("keep_alive_seconds", 0.1, 3600) if section.has("keep_alive_seconds") else 75.0
        ),
        drain_seconds=section.number("drain_seconds", 0, 3600),
        host=section.text("host"),
        port=section.integer("port", 0, 65535),
        grpc_port=section.integer("grpc_port", 0, 65535) if section.has("grpc_port") else None,
        grpc_connection_seconds=(
            section.number("grpc_connection_seconds", 0.1, 86400) if section.has("grpc_connection_seconds") else None
        ),
        tls=_tls(section.take("tls"), folder) if section.has("tls") else None,
        token_file=folder / section.text("token_file") if section.has("token_file") else None,
        cors_origins=_origins(section) if section.has("cors_origins") else None,
        traces=_traces(section.take("traces")) if section.has("traces") else None,
        log_level=section.choice("log_level", LOG_LEVELS),
    )
    section.finish()
    _check_sessions(config)
    return config


def _check_sessions(config: ServerConfig) -> None:
    """Check that devices, instances and CUDA graphs fit together and fit the model."""
    if config.runtime != "onnxruntime" and config.provider != CPU:
        raise _SettingError(f"provider must be {CPU} where the runtime is {config.runtime}")
    if config.devices is None and config.provider == CUDA:
        raise _SettingError(f"devices is missing; {CUDA} needs one, such as [0]")
    if config.devices is not None and config.provider == CPU:
        raise _SettingError("devices must not be set with CPUExecutionProvider")
    if config.threads is not None and len(config.sessions) > config.threads:
        what = "instances" if config.devices is None else "instances of all devices"
        raise _SettingError(f"{what} ({len(config.sessions)}) must not exceed threads ({config.threads})")
    if config.cuda_graphs:
        if config.provider != CUDA:
            raise _SettingError(f"cuda_graphs needs {CUDA}")
        if reason := config.model.signature.no_fixed_calls:
            raise _SettingError(f"cuda_graphs needs fixed shapes, but {reason}")


def _devices(parent: _Section) -> tuple[int, ...]:
    devices = parent.items("devices")
    whole = all(type(device) is int and 0 <= device < 64 for device in devices)
    if not devices or not whole or len(set(devices)) < len(devices):
        raise _SettingError("devices must be a list of distinct integers from 0 to 63")
    return tuple(devices)


def _sizes(parent: _Section) -> tuple[int, ...]:
    sizes = parent.items("batch_sizes")
    if not sizes or not all(type(size) is int and 1 <= size <= 65536 for size in sizes):
        raise _SettingError("batch_sizes must be a list of integers from 1 to 65536")
    return tuple(sorted(set(sizes)))


def _origins(parent: _Section) -> tuple[str, ...]:
    origins = parent.items("cors_origins")
    if not origins or not all(isinstance(origin, str) and _ORIGIN.fullmatch(origin) for origin in origins):
        raise _SettingError("cors_origins must be a list of origins, such as https://app.example.com, or of *")
    return tuple(origins)


def _tls(document: Any, folder: Path) -> TlsConfig:
    section = _Section(document, "tls")
    tls = TlsConfig(
        certificate=folder / section.text("certificate"),
        key=folder / section.text("key"),
        client_ca=folder / section.text("client_ca") if section.has("client_ca") else None,
    )
    section.finish()
    return tls


def _traces(document: Any) -> TracesConfig:
    section = _Section(document, "traces")
    traces = TracesConfig(
        endpoint=section.text("endpoint", _COLLECTOR),
        sample=section.number("sample", 0, 1) if section.has("sample") else 1.0,
    )
    section.finish()
    return traces


def _below(file: str, where: str, folder: Path) -> Path:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise _SettingError(f"{where} must be a path inside the folder of server.json, not {file!r}")
    return folder / file


def _files(document: Any, folder: Path) -> dict[Path, str]:
    section = _Section(document, "model.files")
    return {_below(file, "model.files", folder): section.text(file, _SHA256) for file in section.left()}


def _model(document: Any, folder: Path) -> ModelConfig:
    section = _Section(document, "model")
    labels = _Section(section.take("labels"), "model.labels")
    model = ModelConfig(
        name=section.text("name", _NAME),
        version=section.text("version", _NAME),
        file=_below(section.text("file"), "model.file", folder),
        sha256=section.text("sha256", _SHA256),
        files=_files(section.take("files"), folder) if section.has("files") else {},
        signature=_signature(section.take("signature")),
        labels={name: labels.text(name) for name in _LABELS},
    )
    labels.finish()
    section.finish()
    return model


def _signature(document: Any) -> Signature:
    section = _Section(document, "model.signature")
    dims_section = section.take("dims")
    if not isinstance(dims_section, dict):
        raise _SettingError(f"model.signature.dims must be an object, not {_kind(dims_section)}")
    dims = {name: _bounds(bounds, f"model.signature.dims.{name}") for name, bounds in dims_section.items()}
    inputs = _tensors(section, "inputs")
    outputs = _tensors(section, "outputs")
    batch = section.take("batch")
    if batch is not None and not isinstance(batch, str):
        raise _SettingError(f"model.signature.batch must be a name or null, not {_kind(batch)}")
    multiples = _multiples(section.take("multiples"), dims) if section.has("multiples") else {}
    section.finish()
    for tensor in inputs.values():
        if tensor.shape is None:
            raise _SettingError(f"model.signature.inputs: the shape of {tensor.name!r} must be known")
        for dim in tensor.shape:
            if isinstance(dim, str) and dim not in dims:
                raise _SettingError(f"model.signature.dims lacks {dim!r}, a dimension of input {tensor.name!r}")
        if batch is not None and tensor.shape[:1] != (batch,):
            raise _SettingError(
                f"model.signature.batch is {batch!r}, but it is not the first dimension of input {tensor.name!r}"
            )
    return Signature(inputs, outputs, dims, batch, multiples)


def _multiples(document: Any, dims: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    section = _Section(document, "model.signature.multiples")
    multiples = {name: section.integer(name, 1, 2**31) for name in section.left()}
    for name, step in multiples.items():
        if name not in dims:
            raise _SettingError(f"model.signature.multiples has {name!r}, which is not one of model.signature.dims")
        if dims[name][0] % step or dims[name][1] % step:
            raise _SettingError(f"model.signature.dims.{name} must begin and end with multiples of {step}")
    return multiples


def _tensors(parent: _Section, key: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for index, item in enumerate(parent.items(key)):
        section = _Section(item, f"{parent.path(key)}[{index}]")
        name = section.text("name")
        if name in tensors:
            raise _SettingError(f"{section.path('name')}: duplicate name {name!r}")
        allowed = _allowed(section) if key == "inputs" and section.has("allowed") else None
        tensors[name] = Tensor(name, section.choice("dtype", tuple(DATATYPES)), _shape(section), allowed)
        section.finish()
    if not tensors:
        raise _SettingError(f"{parent.path(key)} must not be empty")
    return tensors


def _allowed(parent: _Section) -> Allowed:
    section = _Section(parent.take("allowed"), parent.path("allowed"))
    ends = section.items("range") if section.has("range") else None
    values = section.items("values") if section.has("values") else None
    if (ends is None) == (values is None):
        raise _SettingError(f"{parent.path('allowed')} must have either range or values")
    if ends is not None and not (len(ends) == 2 and all(map(_is_number, ends)) and ends[0] <= ends[1]):
        raise _SettingError(f"{section.path('range')} must be [smallest, largest], not {ends!r}")
    if values is not None and not (values and all(isinstance(value, bool | int | float | str) for value in values)):
        raise _SettingError(f"{section.path('values')} must be a list of numbers, booleans or texts, not {values!r}")
    allowed = Allowed(
        None if ends is None else (ends[0], ends[1]), None if values is None else tuple(values), section.flag("enforce")
    )
    section.finish()
    return allowed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shape(section: _Section) -> tuple[int | str, ...] | None:
    value = section.take("shape")
    if value is None:
        return None
    if isinstance(value, list) and all(_is_dim(dim) for dim in value):
        return tuple(value)
    raise _SettingError(f"{section.path('shape')} must be null or a list of sizes and names, not {value!r}")


def _is_dim(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _bounds(value: Any, where: str) -> tuple[int, int]:
    if (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(bound, int) and not isinstance(bound, bool) for bound in value)
        and 0 <= value[0] <= value[1]
    ):
        return value[0], value[1]
    raise _SettingError(f"{where} must be [minimum, maximum], not {value!r}")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    return "an object" if isinstance(value, dict) else "a list"
