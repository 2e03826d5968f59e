"""What stands in TensorFlow Serving's files and flags, and why. Facts are those of TensorFlow Serving 2.20's source.

Its configuration files are text protos: `ModelServerConfig`, `BatchingParameters` and `MonitoringConfig`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.backends.folder import largest_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = [
    "FLAGS_FILE",
    "LIVE",
    "METRICS_PATH",
    "MODELS_FILE",
    "MONITORING",
    "REST_PORT",
    "ROOT",
    "Models",
    "batch_sizes",
    "batching",
    "changed_flags",
    "flag_values",
    "flags",
    "models_config",
    "quoted",
    "read_models_config",
    "rows_together",
]

ROOT = PurePosixPath("/opt/mlo/serving")
"""Where the serving folder lies in a container; model paths have to be absolute."""

REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
MODELS_FILE = "models.config"
FLAGS_FILE = "flags.txt"
LIVE = "stable"
"""The label of the version that requests go to."""

MONITORING = f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'
"""monitoring.config. The path is served on the REST port, so it takes that port to be on."""

_TIMEOUT_MS = 30_000
_QUEUE_BATCHES = 32
"""Full batches that wait at most; what comes beyond is refused at once (503) rather than answered too late."""

_WAITING = 256
"""Rows that wait at most, whatever the size of a batch."""

_MOST_THREADS = 512
_SPARE_THREADS = 16
"""Of the REST port: one runs its event loop, the others answer probes and metrics while all batches are full."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9_]{1,63}")
_LARGEST_VERSION = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Models:
    """What models.config says of the one model that it serves.

    Attributes:
        name: of the model on the wire.
        base: the folder of the version folders, as the server sees it; absolute.
        versions: those that are loaded, in ascending order; empty for every one whose folder is there.
        labels: label → version.
    """

    name: str
    base: str
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


def quoted(text: str) -> str:
    """A string literal of a text proto, whatever the text holds: a path of this machine may hold anything."""
    literal = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"\"'\\" else f"\\{byte:03o}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    return f'"{literal}"'


def models_config(models: Models) -> str:
    """models.config.

    Raises:
        ValueError: a name, label, version or path that may not stand in it.
    """
    if not _NAME.fullmatch(models.name):
        raise ValueError(f"{models.name!r} is no model name")
    if not PurePosixPath(models.base).is_absolute():
        raise ValueError(f"the models' folder {models.base!r} is not absolute, and TensorFlow Serving takes no other")
    for label in models.labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is no version label")
    for version in (*models.versions, *models.labels.values()):
        if type(version) is not int or not 0 < version <= _LARGEST_VERSION:
            raise ValueError(f"{version!r} is no version")
    policy = "".join(f" versions: {version}" for version in sorted(models.versions))
    policy = f"specific {{{policy} }}" if policy else "all {}"
    labels = "".join(
        f"    version_labels {{ key: {quoted(label)} value: {version} }}\n"
        for label, version in sorted(models.labels.items())
    )
    return (
        "model_config_list {\n"
        "  config {\n"
        f"    name: {quoted(models.name)}\n"
        f"    base_path: {quoted(models.base)}\n"
        '    model_platform: "tensorflow"\n'
        f"    model_version_policy {{ {policy} }}\n"
        f"{labels}"
        "  }\n"
        "}\n"
    )


_STRING = r'"((?:[^"\\\n]|\\[0-7]{3})*)"'
_WRITTEN = re.compile(
    rf"model_config_list \{{\n  config \{{\n    name: {_STRING}\n    base_path: {_STRING}\n"
    r'    model_platform: "tensorflow"\n    model_version_policy \{ (?:all \{\}|specific \{((?: versions: [0-9]+)+) \}) \}\n'
    rf"((?:    version_labels \{{ key: {_STRING} value: [0-9]+ \}}\n)*)  \}}\n\}}\n"
)
_WRITTEN_LABEL = re.compile(rf"key: {_STRING} value: ([0-9]+)")


def read_models_config(text: str) -> Models:
    """What `models_config` wrote.

    Raises:
        ValueError: the text is another's.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError("it is not as mlo wrote it")
    name, base, versions, labels = found[1], found[2], found[3], found[4]
    return Models(
        _unquoted(name),
        _unquoted(base),
        tuple(int(version) for version in re.findall(r"[0-9]+", versions or "")),
        {_unquoted(label): int(version) for label, version in _WRITTEN_LABEL.findall(labels)},
    )


def _unquoted(literal: str) -> str:
    pieces = re.split(r"\\([0-7]{3})", literal)
    content = b"".join(
        bytes([int(piece, 8)]) if index % 2 else piece.encode("ascii") for index, piece in enumerate(pieces)
    )
    return content.decode("utf-8", "surrogateescape")


def rows_together(settings: ServingSettings) -> int:
    """How many rows TensorFlow Serving puts into one batch; 1 turns its batching off.

    Requests of different inner shapes must not meet: it fails all of a batch when one is longer than the others, and what
    would pad them changes what the model sees. Nor can it give an answer back in parts that has no rows.
    """
    if not _has_rows(settings.signature):
        return 1
    rows = largest_batch(settings.signature, settings.max_batch_size)
    return rows if rows >= _least(settings.signature) else 1


def _has_rows(signature: Signature) -> bool:
    return (
        signature.batch is not None
        and all(isinstance(dim, int) for tensor in signature.inputs for dim in (tensor.shape or ())[1:])
        and all((tensor.shape or (None,))[0] == signature.batch for tensor in signature.outputs)
    )


def _least(signature: Signature) -> int:
    """The fewest rows that the model takes."""
    return 1 if signature.batch is None else signature.dims[signature.batch][0]


def batch_sizes(settings: ServingSettings) -> tuple[int, ...]:
    """The sizes that batches are filled up to: powers of two from the smallest that the model takes, and the largest.

    Each is warmed up. Without them TensorFlow would prepare its kernels anew for each size that is seen for the first time.
    """
    rows = rows_together(settings)
    sizes = [_least(settings.signature)]
    while sizes[-1] * 2 < rows:
        sizes.append(sizes[-1] * 2)
    return (*sizes, rows) if rows > sizes[-1] else tuple(sizes)


def batching(settings: ServingSettings) -> str | None:
    """batching.config, or None where requests run one by one.

    One call may have more rows than go together, up to what the signature allows: it is cut into batches. The last of the
    allowed sizes has to equal `max_batch_size`, which is then that larger number; no batch is ever filled up to it.
    """
    rows = rows_together(settings)
    if rows == 1:
        return None
    assert settings.signature.batch is not None, "rows go together only along a batch dimension"
    longest = settings.signature.dims[settings.signature.batch][1]
    sizes = [*batch_sizes(settings), *([longest] if longest > rows else [])]
    wrapped = {
        "max_batch_size": longest,
        "max_execution_batch_size": rows,
        "enable_large_batch_splitting": "true",
        "batch_timeout_micros": round(settings.max_delay * 1e6),
        "num_batch_threads": settings.threads,
        "max_enqueued_batches": _enqueued(settings, rows),
        "thread_pool_name": quoted("batches"),
    }
    lines = [f"{name} {{ value: {value} }}" for name, value in wrapped.items()]
    return "\n".join([*lines, *(f"allowed_batch_sizes: {size}" for size in sizes)]) + "\n"


def _enqueued(settings: ServingSettings, rows: int) -> int:
    """Batches that wait: some hundred rows, and two of the longest calls at least, since one that does not fit is refused."""
    assert settings.signature.batch is not None, "as above"
    longest = settings.signature.dims[settings.signature.batch][1]
    return max(2 * -(-longest // rows), min(_QUEUE_BATCHES, _WAITING // rows))


def _rest_threads(settings: ServingSettings) -> int:
    """Enough to fill the batches that run and the queue behind them, so that the queue is what refuses.

    Each request holds one while it waits; what finds none waits before the queue, where nothing is refused.
    """
    rows = rows_together(settings)
    if rows == 1:
        return 4 * settings.threads + _SPARE_THREADS
    return min(_MOST_THREADS, rows * (settings.threads + _enqueued(settings, rows)) + _SPARE_THREADS)


def flags(settings: ServingSettings, root: PurePosixPath = ROOT) -> tuple[str, ...]:
    """How the server is started on a folder that lies at `root`."""
    values = {
        # gRPC has to be somewhere. On its port it also takes HandleReloadConfigRequest, which loads any path and asks
        # nobody who they are, and it listens on all interfaces; so it gets a socket instead.
        "port": 0,
        "grpc_socket_path": "/tmp/grpc.sock",  # noqa: S108 - in a container of its own
        "rest_api_port": REST_PORT,
        "rest_api_num_threads": _rest_threads(settings),
        "rest_api_timeout_in_ms": _TIMEOUT_MS,
        "model_config_file": root / MODELS_FILE,
        # Nothing changes in an image. `tensorflow_serving_versions` raises both where versions come and go.
        "model_config_file_poll_wait_seconds": 0,
        "file_system_poll_wait_seconds": 0,
        # Labels are read before the first model is loaded, so without this no server with labels starts at all. A label
        # that is in use still moves only to a version that is loaded.
        "allow_version_labels_for_unavailable_models": "true",
        # The default tries again five times, a minute apart; what lies in an image does not get better.
        "max_num_load_retries": 0,
        "monitoring_config_file": root / "monitoring.config",
        # The default of both is the number of the host's cores, whatever the container may use.
        "tensorflow_intra_op_parallelism": settings.threads,
        "tensorflow_inter_op_parallelism": settings.threads,
        # On by default: anybody who reaches the gRPC port may trace the server.
        "enable_profiler": "false",
        "enable_batching": "false",
    }
    if rows_together(settings) > 1:
        values |= {"enable_batching": "true", "batching_parameters_file": root / "batching.config"}
    return tuple(f"--{name}={value}" for name, value in values.items())


def flag_values(given: Iterable[str]) -> dict[str, str]:
    """Flag → value; the last one counts, as for the server.

    Raises:
        ValueError: an argument is no flag.
    """
    values = {}
    for argument in given:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ValueError(f"{argument!r} is no flag of the form --name=value")
        values[name] = value
    return values


def changed_flags(given: Iterable[str], root: PurePosixPath, **changes: object) -> tuple[str, ...]:
    """The same flags for a folder that lies at `root`, with other values for some.

    Raises:
        ValueError: an argument is no flag.
    """
    values = flag_values(given)
    files = {
        name: root / PurePosixPath(value).name
        for name, value in values.items()
        if name.endswith(("_config_file", "_parameters_file"))
    }
    return tuple(f"--{name}={value}" for name, value in {**values, **files, **changes}.items())
