"""The names of element types: numpy's in the signature, the protocol's on the wire, and ONNX Runtime's."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DATATYPES", "ORT_TYPES", "Array", "numpy_dtype"]

Array = np.ndarray[Any, np.dtype[Any]]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""numpy's name → the protocol's. bfloat16 is missing, because ONNX Runtime's Python API does not support it."""

ORT_TYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in DATATYPES},
}
"""ONNX Runtime's name → numpy's."""


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype of arrays for `dtype`; strings are Python objects, as ONNX Runtime requires.

    Little-endian, which is the protocol's byte order and that of every platform ONNX Runtime is built for.
    """
    return np.dtype(object) if dtype == "string" else np.dtype(dtype)
