"""Imports TensorFlow and Keras the one way that mlo runs them: on the CPU, untouched by the user's own settings.

Every other file takes `tf` and `keras` from here, since some settings count only before the first import.
"""

from __future__ import annotations

import logging
import os
import warnings

os.environ["KERAS_BACKEND"] = "tensorflow"
# Keras reads settings (image_data_format, floatx, ...) from a file in this folder, and writes one where there is none.
os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")  # noqa: PTH118 - a path that can neither be read nor made
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only: its notes speak of how TensorFlow was built

import keras
import tensorflow as tf

__all__ = ["keras", "limit_threads", "tf"]

tf.config.set_visible_devices([], "GPU")
# What TensorFlow warns of is how a model was written (names of inputs, variables of TensorFlow 1), as it is told anew at
# every call; the errors come as exceptions.
tf.get_logger().setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"(keras|tensorflow)\.")


def limit_threads(threads: int) -> int:
    """Let the operators of one call use `threads` threads, and run one operator at a time.

    Counts for the whole process, and only until TensorFlow has run something.

    Returns:
        How many threads hold: `threads`, or what held already; 0 for as many as the machine has CPUs.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has run something
        return int(tf.config.threading.get_intra_op_parallelism_threads())
    return threads
