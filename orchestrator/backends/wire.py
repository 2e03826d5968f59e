"""Tensors as JSON of the Open Inference Protocol v2, which both backends speak.

JSON has no infinities and no NaN. An infinity is written `1e999`, a legal number that every reader of IEEE doubles
rounds to infinity; NaN is written `null`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

__all__ = ["DATATYPES", "decode_json", "encode_json"]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""numpy's dtype → the protocol's datatype."""

_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()} | {"BF16": "float32"}


def encode_json(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, dict[str, str]]:
    """An inference request's body and headers; data lie flat, in row-major order.

    Raises:
        ValueError: a dtype that the protocol does not know.
    """
    tensors = []
    for name, array in inputs.items():
        if array.dtype.name not in DATATYPES:
            raise ValueError(f"input {name}: the protocol has no datatype for {array.dtype.name}")
        head = {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}
        tensors.append(f'{json.dumps(head)[:-1]}, "data": {_numbers(array)}}}')
    return f'{{"inputs": [{", ".join(tensors)}]}}'.encode(), {"Content-Type": "application/json"}


def decode_json(body: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs by name of an inference answer's body.

    Raises:
        ValueError: the body is no such answer.
    """
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    try:
        outputs = json.loads(body)["outputs"]
        return {
            tensor["name"]: np.array(tensor["data"], dtype=_DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in outputs
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not an inference answer: {type(error).__name__}: {error}") from error


def _numbers(array: np.ndarray[Any, Any]) -> str:
    text = json.dumps(array.ravel().tolist())
    # Only numbers stand in this text, so the two words can be nothing but the values that JSON lacks.
    return text.replace("NaN", "null").replace("Infinity", "1e999") if array.dtype.kind == "f" else text
