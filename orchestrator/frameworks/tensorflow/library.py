"""Imports TensorFlow and Keras with mlo's settings: on the CPU unless a GPU is requested, without the user's settings.

All other files import `tf` and `keras` from here, because some settings only take effect before the first import.
"""

from __future__ import annotations

import logging
import os
import warnings

os.environ["KERAS_BACKEND"] = "tensorflow"
# Keras reads settings (image_data_format, floatx, ...) from a file in this folder, and writes one if there is none.
os.environ["KERAS_HOME"] = os.path.join(os.devnull, "keras")  # noqa: PTH118 - a path that can neither be read nor created
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # a step that uses GPUs is started with this variable set
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # errors only: its messages are about how TensorFlow was built

import keras
import tensorflow as tf

from orchestrator.frameworks.source.runtime import Accelerator, gpu_not_used

__all__ = ["keras", "limit_threads", "tf", "use_accelerator"]

tf.config.set_visible_devices([], "GPU")
# TensorFlow warns about how a model was written (names of inputs, variables of TensorFlow 1) in every call; errors are
# raised as exceptions.
tf.get_logger().setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"(keras|tensorflow)\.")


def limit_threads(threads: int) -> int:
    """Let the operators of one call use `threads` threads, and run one operator at a time.

    Applies to the whole process, and only before TensorFlow has run anything.

    Returns:
        The number of threads in effect: `threads`, or an earlier setting; 0 for the machine's number of CPUs.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it has run something
        return int(tf.config.threading.get_intra_op_parallelism_threads())
    return threads


def use_accelerator(accelerator: Accelerator) -> None:
    """Let TensorFlow use the first GPU if that is the accelerator; call it before TensorFlow has run anything.

    Its memory grows as needed; by default TensorFlow allocates all of it. float32 is computed as float32, not as TF32.

    Raises:
        StepError: E427, TensorFlow finds no GPU.
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
