"""TensorFlow Serving's own messages, for what reads the files that mlo writes. Run by other processes: it imports TensorFlow.

The package tensorflow-serving-api has `ModelServerConfig` and `PredictionLog`. The two that it lacks are built here from
their definitions in TensorFlow Serving 2.20: `tensorflow_serving/servables/tensorflow/session_bundle_config.proto` and
`tensorflow_serving/config/monitoring_config.proto`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

__all__ = ["BatchingParameters", "ModelServerConfig", "MonitoringConfig", "PredictionLog"]

_Field = descriptor_pb2.FieldDescriptorProto
_WRAPPED = {
    "max_batch_size": (1, "Int64Value"),
    "batch_timeout_micros": (2, "Int64Value"),
    "max_enqueued_batches": (3, "Int64Value"),
    "num_batch_threads": (4, "Int64Value"),
    "thread_pool_name": (5, "StringValue"),
    "enable_large_batch_splitting": (8, "BoolValue"),
    "max_execution_batch_size": (9, "Int64Value"),
}


def _field(
    name: str, number: int, kind: _Field.Type.ValueType, *, message: str | None = None, repeated: bool = False
) -> Any:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    return _Field(name=name, number=number, type=kind, label=label, type_name=message)


def _file() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="mlo_tests/tensorflow_serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    batching = file.message_type.add(name="BatchingParameters")
    for name, (number, wrapper) in _WRAPPED.items():
        batching.field.append(_field(name, number, _Field.TYPE_MESSAGE, message=f".google.protobuf.{wrapper}"))
    batching.field.append(_field("allowed_batch_sizes", 6, _Field.TYPE_INT64, repeated=True))
    batching.field.append(_field("pad_variable_length_inputs", 7, _Field.TYPE_BOOL))
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.append(_field("enable", 1, _Field.TYPE_BOOL))
    prometheus.field.append(_field("path", 2, _Field.TYPE_STRING))
    monitoring = file.message_type.add(name="MonitoringConfig")
    message = ".tensorflow.serving.PrometheusConfig"
    monitoring.field.append(_field("prometheus_config", 1, _Field.TYPE_MESSAGE, message=message))
    return file


_POOL = descriptor_pool.Default()
_POOL.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"tensorflow.serving.{name}"))


BatchingParameters = _message("BatchingParameters")
MonitoringConfig = _message("MonitoringConfig")
