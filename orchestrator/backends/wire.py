"""Tensors as JSON of the Open Inference Protocol v2.

JSON has no infinities and no NaN. An infinity is written as `1e999`, a valid number that every reader of IEEE doubles
rounds to infinity; NaN is written as `null`.
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
}
"""numpy's dtype → the protocol's datatype."""

_TEXT = "BYTES"
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()} | {"BF16": "float32"}


def encode_json(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an inference request; data is flat, in row-major order.

    Texts (numpy's unicode) are sent as BYTES.

    Raises:
        ValueError: the protocol has no datatype for a dtype.
    """
    tensors = []
    for name, array in inputs.items():
        datatype = _TEXT if array.dtype.kind == "U" else DATATYPES.get(array.dtype.name)
        if datatype is None:
            raise ValueError(f"input {name}: the protocol has no datatype for {array.dtype.name}")
        head = {"name": name, "shape": list(array.shape), "datatype": datatype}
        tensors.append(f'{json.dumps(head)[:-1]}, "data": {_elements(array)}}}')
    return f'{{"inputs": [{", ".join(tensors)}]}}'.encode(), {"Content-Type": "application/json"}


def decode_json(body: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs by name in the body of an inference response.

    Raises:
        ValueError: the body is not such a response.
    """
    try:
        outputs = json.loads(body)["outputs"]
        return {tensor["name"]: _array(tensor).reshape(tensor["shape"]) for tensor in outputs}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"not an inference response: {type(error).__name__}: {error}") from error


def _array(tensor: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    if tensor["datatype"] != _TEXT:
        return np.array(tensor["data"], dtype=_DTYPES[tensor["datatype"]])
    if not all(isinstance(item, str) for item in tensor["data"]):
        raise TypeError(f"{tensor['name']} has an element that is not a string")
    return np.array(tensor["data"], dtype=np.str_)


def _elements(array: np.ndarray[Any, Any]) -> str:
    text = json.dumps(array.ravel().tolist())
    # The text only has numbers, so both words are values that JSON lacks.
    return text.replace("NaN", "null").replace("Infinity", "1e999") if array.dtype.kind == "f" else text
