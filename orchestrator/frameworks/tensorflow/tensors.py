"""Carries arrays between numpy and TensorFlow: strings are unicode on one side and bytes on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.tensorflow.process import tf

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Tensor

__all__ = ["STRING", "dtype_name", "from_tf", "spec_of", "to_tf"]

STRING = "string"


def to_tf(array: Array) -> Any:
    """A tensor with these values; unicode becomes UTF-8."""
    if array.dtype.kind == "U":
        return tf.constant(np.char.encode(array, "utf-8"))
    return tf.convert_to_tensor(array)


def from_tf(tensor: Any) -> Array:
    """An array with these values, one's own; bfloat16 comes as float32, which numpy knows, and strings as unicode."""
    if tensor.dtype == tf.bfloat16:
        tensor = tf.cast(tensor, tf.float32)
    array: Array = np.asarray(tensor.numpy())
    if tensor.dtype == tf.string:
        flat = [value.decode("utf-8", errors="backslashreplace") for value in array.reshape(-1)]
        return np.array(flat, dtype=np.str_).reshape(array.shape)
    return array


def spec_of(tensor: Tensor) -> Any:
    """The TensorSpec of an input: every named dimension is open."""
    shape = None if tensor.shape is None else [dim if isinstance(dim, int) else None for dim in tensor.shape]
    return tf.TensorSpec(shape, tf.as_dtype(tensor.dtype), name=tensor.name)


def dtype_name(dtype: Any) -> str:
    """How a spec writes a dtype of TensorFlow or Keras, or how these call it if a spec cannot."""
    name: str = tf.as_dtype(dtype).name
    return name
