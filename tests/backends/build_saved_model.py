"""Writes a small SavedModel: `python build_saved_model.py KIND FOLDER`. Run by other processes: it imports TensorFlow.

KIND is `times-2.5` (y = 2.5 x), `wide` (several inputs and outputs of all sorts) or `failing` (it fails on every call).
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

_ROWS = tf.TensorSpec([None, 3], tf.float32, "x")


def _times(factor: float) -> object:
    weight = tf.Variable(factor)

    @tf.function(input_signature=[_ROWS])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": x * weight}

    return weight, serve


def _wide() -> object:
    specs = [_ROWS, tf.TensorSpec([None], tf.int64, "k"), tf.TensorSpec([None], tf.string, "text")]

    @tf.function(input_signature=specs)
    def serve(x: tf.Tensor, k: tf.Tensor, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "inverse": 1.0 / x,
            "double": tf.cast(x, tf.float64) / 3.0,
            "next": k + 1,
            "small": tf.cast(k, tf.int8),
            "even": k % 2 == 0,
            "greeting": tf.strings.join(["hello ", text]),
            "raw_bytes": text,
        }

    return None, serve


def _failing() -> object:
    @tf.function(input_signature=[_ROWS])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_sum(x), float("-inf"))]):
            return {"y": tf.identity(x)}

    return None, serve


if __name__ == "__main__":
    kind, folder = sys.argv[1:3]
    module = tf.Module()
    made = {"wide": _wide, "failing": _failing}.get(kind) or (lambda: _times(float(kind.removeprefix("times-"))))
    module.weight, module.serve = made()
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
