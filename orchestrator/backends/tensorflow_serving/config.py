"""What stands in TensorFlow Serving's files and flags, and why. Facts are those of TensorFlow Serving 2.20's source.

Its configuration files are text protos, made with the generated classes of `messages.proto`. These are imported where they
are used: protobuf comes with the extra `tensorflow`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.backends.folder import largest_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = [
    "FLAGS_FILE",
    "LIVE",
    "METRICS_PATH",
    "MODELS_FILE",
    "REST_PORT",
    "ROOT",
    "Models",
    "batch_sizes",
    "batching",
    "changed_flags",
    "flag_values",
    "flags",
    "models_config",
    "monitoring",
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

_PLATFORM = "tensorflow"
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


def models_config(models: Models) -> str:
    """models.config.

    Raises:
        ValueError: a name, label, version or path that may not stand in it.
    """
    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415 - the core lacks protobuf

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
    config = pb.ModelConfig(
        name=models.name,
        base_path=models.base.encode("utf-8", "surrogateescape"),
        model_platform=_PLATFORM,
        version_labels=dict(models.labels),
    )
    if models.versions:
        config.model_version_policy.specific.versions.extend(sorted(models.versions))
    else:
        config.model_version_policy.all.SetInParent()
    return _text(pb.ModelServerConfig(model_config_list=pb.ModelConfigList(config=[config])))


def read_models_config(text: str) -> Models:
    """What `models_config` wrote.

    Raises:
        ValueError: the text is another's.
    """
    from google.protobuf import text_format  # noqa: PLC0415 - as in `models_config`

    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415

    try:
        (config,) = text_format.Parse(text, pb.ModelServerConfig()).model_config_list.config
        models = Models(
            config.name,
            config.base_path.decode("utf-8", "surrogateescape"),
            tuple(config.model_version_policy.specific.versions),
            dict(config.version_labels),
        )
        same = models_config(models) == text
    except (text_format.ParseError, ValueError) as error:
        raise ValueError("it is not as mlo wrote it") from error
    if not same:  # it says something that `Models` does not hold
        raise ValueError("it is not as mlo wrote it")
    return models


def monitoring() -> str:
    """monitoring.config. The path is served on the REST port, so it takes that port to be on."""
    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415 - as in `models_config`

    return _text(pb.MonitoringConfig(prometheus_config=pb.PrometheusConfig(enable=True, path=METRICS_PATH)))


def _text(message: Message) -> str:
    from google.protobuf import text_format  # noqa: PLC0415 - as in `models_config`

    return text_format.MessageToString(message)


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
    from google.protobuf.wrappers_pb2 import BoolValue, Int64Value, StringValue  # noqa: PLC0415 - as in `models_config`

    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415

    rows = rows_together(settings)
    if rows == 1:
        return None
    assert settings.signature.batch is not None, "rows go together only along a batch dimension"
    longest = settings.signature.dims[settings.signature.batch][1]
    sizes = [*batch_sizes(settings), *([longest] if longest > rows else [])]
    parameters = pb.BatchingParameters(
        max_batch_size=Int64Value(value=longest),
        max_execution_batch_size=Int64Value(value=rows),
        enable_large_batch_splitting=BoolValue(value=True),
        batch_timeout_micros=Int64Value(value=round(settings.max_delay * 1e6)),
        num_batch_threads=Int64Value(value=settings.threads),
        max_enqueued_batches=Int64Value(value=_enqueued(settings, rows)),
        thread_pool_name=StringValue(value="batches"),
        allowed_batch_sizes=sizes,
    )
    return _text(parameters)


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
