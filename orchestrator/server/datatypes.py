"""How an element type is called: by numpy in the signature, by the protocol on the wire, by ONNX Runtime."""

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
"""numpy's name → the protocol's. bfloat16 is missing since ONNX Runtime's Python interface takes no numpy array of it."""

ORT_TYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in DATATYPES},
}
"""ONNX Runtime's name → numpy's."""


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype of arrays that hold `dtype`; strings are Python objects, which is what ONNX Runtime takes.

    Little-endian, which is the protocol's byte order and that of every platform ONNX Runtime is built for.
    """
    return np.dtype(object) if dtype == "string" else np.dtype(dtype)
