"""Reads what mlo writes for TensorFlow Serving, with its real messages: `python read_tensorflow_serving.py < requests > answers`.

A request is a line of JSON: a list of [kind, content in base64]; so is its answer, one document for each. A content that
is not what its kind says answers `{"error": ...}`.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
from google.protobuf import json_format, text_format

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.backends.tensorflow_serving_messages import (
    BatchingParameters,
    ModelServerConfig,
    MonitoringConfig,
    PredictionLog,
)

_TEXTS = {"models": ModelServerConfig, "batching": BatchingParameters, "monitoring": MonitoringConfig}


def _read(kind: str, content: bytes) -> Any:
    if kind in _TEXTS:
        message = text_format.Parse(content, _TEXTS[kind]())
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return [_record(bytes(record.numpy())) for record in tf.data.TFRecordDataset(file.name)]


def _record(content: bytes) -> Any:
    log = PredictionLog.FromString(content)
    known = PredictionLog.FromString(content)
    known.DiscardUnknownFields()
    assert known.ByteSize() == log.ByteSize() == len(content), "a field that the message does not have"
    request = log.predict_log.request
    inputs = {}
    for name, proto in request.inputs.items():
        array = tf.make_ndarray(proto)
        values = [item.decode() for item in array.ravel()] if array.dtype == object else array.ravel().tolist()
        inputs[name] = {"dtype": tf.as_dtype(proto.dtype).name, "shape": list(array.shape), "values": values}
    return {"name": request.model_spec.name, "signature": request.model_spec.signature_name, "inputs": inputs}


def _answer(kind: str, content: str) -> Any:
    try:
        return _read(kind, base64.b64decode(content))
    except (text_format.ParseError, tf.errors.OpError) as error:
        return {"error": str(error)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps([_answer(kind, content) for kind, content in json.loads(line)]), flush=True)
