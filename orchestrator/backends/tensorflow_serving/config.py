"""TensorFlow Serving's configuration files and flags, and what mlo keeps beside them, with reasons from the source of TensorFlow Serving 2.20.

The configuration files are text protos, written with the generated classes of `messages.proto`. These are imported where
they are used, because protobuf comes with the extra `tensorflow`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.backends.folder import largest_batch
from orchestrator.backends.server_json import Labels, ServedModel, ServerJson

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
    "TensorFlowServingJson",
    "batch_sizes",
    "batching",
    "changed_flags",
    "flag_values",
    "flags",
    "max_batch_rows",
    "models_config",
    "monitoring",
    "read_models_config",
]

ROOT = PurePosixPath("/opt/mlo/serving")
"""The serving folder in a container; model paths must be absolute."""

REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
MODELS_FILE = "models.config"
FLAGS_FILE = "flags.txt"
LIVE = "stable"
"""The label of the version that requests go to."""

_PLATFORM = "tensorflow"
_TIMEOUT_MS = 30_000
_QUEUE_BATCHES = 32
"""The maximum number of full batches in the queue; further requests are refused at once (503) instead of answered late."""

_WAITING = 256
"""The maximum number of rows in the queue, regardless of the batch size."""

_MOST_THREADS = 512
_SPARE_THREADS = 16
"""Additional threads of the REST port: one for the event loop, the others for probes and metrics while all batches are full."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9_]{1,63}")
_LARGEST_VERSION = 2**63 - 1


class TensorFlowServingJson(ServerJson):
    """`server.json`, which is for mlo: what is not in the server's own files. `memory` is in bytes."""

    model: ServedModel
    cpus: float
    memory: int
    devices: int

    @classmethod
    def of(cls, settings: ServingSettings) -> TensorFlowServingJson:
        """The one of what is rendered."""
        model = ServedModel(name=settings.name, signature=settings.signature, labels=Labels.of(settings))
        return cls(model=model, cpus=settings.cpus, memory=settings.memory, devices=settings.devices)


@dataclass(frozen=True, slots=True)
class Models:
    """The content of models.config, which serves one model.

    Attributes:
        name: of the model on the wire.
        base: the folder with the version folders, as seen by the server; absolute.
        versions: the versions to load, in ascending order; empty for all that have a folder.
        labels: label → version.
    """

    name: str
    base: str
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


def models_config(models: Models) -> str:
    """The text of models.config.

    Raises:
        ValueError: a name, label, version or path is not valid.
    """
    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415 - the core lacks protobuf

    if not _NAME.fullmatch(models.name):
        raise ValueError(f"{models.name!r} is not a valid model name")
    if not PurePosixPath(models.base).is_absolute():
        raise ValueError(f"the models' folder {models.base!r} is not absolute, as TensorFlow Serving requires")
    for label in models.labels:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is not a valid version label")
    for version in (*models.versions, *models.labels.values()):
        if type(version) is not int or not 0 < version <= _LARGEST_VERSION:
            raise ValueError(f"{version!r} is not a valid version")
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
    """Parse a text that `models_config` returned.

    Raises:
        ValueError: it is any other text.
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
        raise ValueError("it is not a file that mlo writes") from error
    if not same:  # it contains something that `Models` cannot represent
        raise ValueError("it is not a file that mlo writes")
    return models


def monitoring() -> str:
    """The text of monitoring.config. Metrics are served on the REST port, which must therefore be enabled."""
    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415 - as in `models_config`

    return _text(pb.MonitoringConfig(prometheus_config=pb.PrometheusConfig(enable=True, path=METRICS_PATH)))


def _text(message: Message) -> str:
    from google.protobuf import text_format  # noqa: PLC0415 - as in `models_config`

    return text_format.MessageToString(message)


def max_batch_rows(settings: ServingSettings) -> int:
    """The maximum rows that TensorFlow Serving puts into one batch; 1 turns its batching off.

    Batching is off if requests can have different inner shapes, because the server fails a whole batch if one request is
    longer than the others, and padding would change the model's inputs. It is also off if an output has no rows, because
    such an output cannot be split into the answers of the requests.
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
    """The minimum number of rows that the model accepts."""
    return 1 if signature.batch is None else signature.dims[signature.batch][0]


def batch_sizes(settings: ServingSettings) -> tuple[int, ...]:
    """The sizes that batches are padded to: powers of two from the minimum that the model accepts, and the maximum.

    Each is warmed up. Without fixed sizes, TensorFlow would prepare its kernels again for every new batch size.
    """
    rows = max_batch_rows(settings)
    sizes = [_least(settings.signature)]
    while sizes[-1] * 2 < rows:
        sizes.append(sizes[-1] * 2)
    return (*sizes, rows) if rows > sizes[-1] else tuple(sizes)


def batching(settings: ServingSettings) -> str | None:
    """The text of batching.config, or None if requests are not batched.

    One request may have more rows than a batch, up to the signature's maximum; it is split into several batches. The last
    of the allowed sizes must equal `max_batch_size`, which is then that maximum; no batch is ever padded to it.
    """
    from google.protobuf.wrappers_pb2 import BoolValue, Int64Value, StringValue  # noqa: PLC0415 - as in `models_config`

    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415

    rows = max_batch_rows(settings)
    if rows == 1:
        return None
    assert settings.signature.batch is not None, "only a model with a batch dimension is batched"
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


def enqueued_batches(text: str) -> int | None:
    """How many batches may wait, from the text that `batching` made."""
    found = re.search(r"max_enqueued_batches\s*\{\s*value:\s*([0-9]+)", text)
    return None if found is None else int(found[1])


def _enqueued(settings: ServingSettings, rows: int) -> int:
    """The queue's length in batches: a few hundred rows, and at least two of the largest requests, which must fit whole."""
    assert settings.signature.batch is not None, "as above"
    longest = settings.signature.dims[settings.signature.batch][1]
    return max(2 * -(-longest // rows), min(_QUEUE_BATCHES, _WAITING // rows))


def _rest_threads(settings: ServingSettings) -> int:
    """Enough threads to fill the running batches and the queue behind them.

    Each request holds a thread while it waits. Without a free thread it waits in front of the queue, where requests are
    never refused.
    """
    rows = max_batch_rows(settings)
    if rows == 1:
        return 4 * settings.threads + _SPARE_THREADS
    return min(_MOST_THREADS, rows * (settings.threads + _enqueued(settings, rows)) + _SPARE_THREADS)


def flags(settings: ServingSettings, root: PurePosixPath = ROOT) -> tuple[str, ...]:
    """The flags for a server whose serving folder is `root`."""
    values = {
        # gRPC cannot be turned off. Its port listens on all interfaces and accepts HandleReloadConfigRequest, which loads
        # a model from any path without authentication; so it gets a Unix socket instead.
        "port": 0,
        "grpc_socket_path": "/tmp/grpc.sock",  # noqa: S108 - in a container of its own
        "rest_api_port": REST_PORT,
        "rest_api_num_threads": _rest_threads(settings),
        "rest_api_timeout_in_ms": _TIMEOUT_MS,
        "model_config_file": root / MODELS_FILE,
        # An image never changes. `versions.py` sets both for folders whose versions change.
        "model_config_file_poll_wait_seconds": 0,
        "file_system_poll_wait_seconds": 0,
        # Labels are read before the first model is loaded, so without this flag no server with labels would start. A label
        # that is in use still only moves to a loaded version.
        "allow_version_labels_for_unavailable_models": "true",
        # The default is five retries, a minute apart; they are pointless, because the files do not change.
        "max_num_load_retries": 0,
        "monitoring_config_file": root / "monitoring.config",
        # The default of both is the number of the host's cores, even if the container may use fewer.
        "tensorflow_intra_op_parallelism": settings.threads,
        "tensorflow_inter_op_parallelism": settings.threads,
        # On by default, and lets every gRPC client profile the server.
        "enable_profiler": "false",
        "enable_batching": "false",
    }
    if max_batch_rows(settings) > 1:
        values |= {"enable_batching": "true", "batching_parameters_file": root / "batching.config"}
    return tuple(f"--{name}={value}" for name, value in values.items())


def flag_values(arguments: Iterable[str]) -> dict[str, str]:
    """Flag → value; the last one takes precedence, as in the server.

    Raises:
        ValueError: an argument is not a flag.
    """
    values = {}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            raise ValueError(f"{argument!r} is not a flag of the form --name=value")
        values[name] = value
    return values


def changed_flags(arguments: Iterable[str], root: PurePosixPath, **changes: object) -> tuple[str, ...]:
    """The same flags for the folder `root`, with some values replaced.

    Raises:
        ValueError: an argument is not a flag.
    """
    values = flag_values(arguments)
    files = {
        name: root / PurePosixPath(value).name
        for name, value in values.items()
        if name.endswith(("_config_file", "_parameters_file"))
    }
    return tuple(f"--{name}={value}" for name, value in {**values, **files, **changes}.items())
