"""Imports TensorFlow and Keras as mlo runs them: on the CPU unless a GPU is asked for, without the user's settings.

Every other file takes `tf` and `keras` from here, since some settings count only before the first import.
"""

from __future__ import annotations

import logging
import os
import warnings

os.environ["KERAS_BACKEND"] = "tensorflow"
# Keras reads settings (image_data_format, floatx, ...) from a file in this folder, and writes one where there is none.
os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")  # noqa: PTH118 - a path that can neither be read nor made
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a step that uses GPUs is started with a list of them
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only: its notes speak of how TensorFlow was built

import keras
import tensorflow as tf

from orchestrator.frameworks.source.runtime import Accelerator, gpu_not_used

__all__ = ["keras", "limit_threads", "tf", "use_accelerator"]

tf.config.set_visible_devices([], "GPU")
# TensorFlow warns of how a model was written (names of inputs, variables of TensorFlow 1), again at
# every call; errors come as exceptions.
tf.get_logger().setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"(keras|tensorflow)\.")


def limit_threads(threads: int) -> int:
    """Let the operators of one call use `threads` threads, and run one operator at a time.

    Applies to the whole process, and only before TensorFlow has run anything.

    Returns:
        How many threads hold: `threads`, or what held already; 0 for as many as the machine has CPUs.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has run something
        return int(tf.config.threading.get_intra_op_parallelism_threads())
    return threads


def use_accelerator(accelerator: Accelerator) -> None:
    """Let TensorFlow use the first GPU if that is the accelerator; call it before TensorFlow has run anything.

    Its memory grows by what is needed, or it would take all there is. float32 is computed as float32, not as TF32.

    Raises:
        StepError: E427, it finds no GPU.
    """
    if accelerator == "none":
        return
    if not tf.test.is_built_with_cuda():
        raise gpu_not_used("TensorFlow", "the installed tensorflow is a CPU build")
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise gpu_not_used(
            "TensorFlow", "it finds none: the driver, or libraries of CUDA or cuDNN, are missing or too old"
        )
    tf.config.set_visible_devices(gpus[:1], "GPU")
    tf.config.experimental.set_memory_growth(gpus[0], enable=True)
    tf.config.experimental.enable_tensor_float_32_execution(enabled=False)
