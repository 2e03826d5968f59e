"""Writes a small SavedModel: `python build_saved_model.py KIND FOLDER`. Run by other processes: it imports TensorFlow.

KIND is `times-2.5` (y = 2.5 x), `wide` (several inputs and outputs of all sorts) or `failing` (it fails on every call).
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

_ROWS = tf.TensorSpec([None, 3], tf.float32, "x")
_WIDE = [_ROWS, tf.TensorSpec([None], tf.int64, "k"), tf.TensorSpec([None], tf.string, "text")]


def _times(module: Any, factor: float) -> Any:
    module.weight = tf.Variable(factor)

    def serve(x: Any) -> dict[str, Any]:
        return {"y": x * module.weight}

    return tf.function(serve, input_signature=[_ROWS])


def _wide(x: Any, k: Any, text: Any) -> dict[str, Any]:
    return {
        "inverse": 1.0 / x,
        "double": tf.cast(x, tf.float64) / 3.0,
        "next": k + 1,
        "small": tf.cast(k, tf.int8),
        "even": k % 2 == 0,
        "greeting": tf.strings.join(["hello ", text]),
        "raw_bytes": text,
    }


def _failing(x: Any) -> dict[str, Any]:
    with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_sum(x), float("-inf"))]):
        return {"y": tf.identity(x)}


def main(kind: str, folder: str) -> None:
    """Write it."""
    module = tf.Module()
    if kind == "wide":
        module.serve = tf.function(_wide, input_signature=_WIDE)
    elif kind == "failing":
        module.serve = tf.function(_failing, input_signature=[_ROWS])
    else:
        module.serve = _times(module, float(kind.removeprefix("times-")))
    tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})


if __name__ == "__main__":
    main(*sys.argv[1:3])
