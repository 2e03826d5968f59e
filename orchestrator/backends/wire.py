"""Tensors of the Open Inference Protocol v2: as JSON, or as raw bytes after JSON (its binary tensor extension).

JSON has no infinities and no NaN: they are written as texts, as in the JSON of protocol buffers, which numpy reads as numbers.
Raw bytes have all values, and are a fraction of the size.
"""

from __future__ import annotations

import json
import re
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

__all__ = ["DATATYPES", "decode", "encode_binary", "encode_json", "encode_message", "grpc_prefixed"]

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
_NOT_FINITE = re.compile("NaN|-?Infinity")
_LENGTH = struct.Struct("<I")
_PREFIX = struct.Struct(">BI")
_JSON_BYTES = "Inference-Header-Content-Length"
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()} | {"BF16": "float32"}


def encode_json(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an inference request; data is flat, in row-major order.

    Texts (numpy's unicode) are sent as BYTES.

    Raises:
        ValueError: the protocol has no datatype for a dtype.
    """
    tensors = []
    for name, array in inputs.items():
        head = {"name": name, "shape": list(array.shape), "datatype": _datatype(name, array)}
        tensors.append(f'{json.dumps(head)[:-1]}, "data": {_elements(array)}}}')
    return f'{{"inputs": [{", ".join(tensors)}]}}'.encode(), {"Content-Type": "application/json"}


def encode_binary(inputs: Mapping[str, np.ndarray[Any, Any]]) -> tuple[bytes, dict[str, str]]:
    """The body and headers of an inference request with raw little-endian tensors, which asks for such an answer.

    Raises:
        ValueError: the protocol has no datatype for a dtype.
    """
    tensors, blobs = [], []
    for name, array in inputs.items():
        blob = _raw(array)
        head = {"name": name, "shape": list(array.shape), "datatype": _datatype(name, array)}
        tensors.append({**head, "parameters": {"binary_data_size": len(blob)}})
        blobs.append(blob)
    document = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", _JSON_BYTES: str(len(document))}
    return b"".join((document, *blobs)), headers


def encode_message(name: str, inputs: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """A message of `ModelInfer` for the model `name`, with raw tensors.

    Raises:
        ValueError: the protocol has no datatype for a dtype.
    """
    from orchestrator.server import open_inference_pb2 as pb  # noqa: PLC0415 - protobuf is only there for gRPC

    tensors = [
        pb.ModelInferRequest.InferInputTensor(name=key, datatype=_datatype(key, array), shape=array.shape)
        for key, array in inputs.items()
    ]
    message = pb.ModelInferRequest(model_name=name, inputs=tensors, raw_input_contents=map(_raw, inputs.values()))
    return bytes(message.SerializeToString())


def grpc_prefixed(message: bytes) -> bytes:
    """A message as gRPC sends it: whether it is compressed, its length, and its bytes."""
    return _PREFIX.pack(0, len(message)) + message


def decode(body: bytes, headers: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs by name in an inference response, whatever its form.

    Args:
        body: of the response.
        headers: of the response, in lower case.

    Raises:
        ValueError: it is not such a response.
    """
    try:
        size = headers.get(_JSON_BYTES.lower())
        raw = _Raw(b"" if size is None else body[int(size) :])
        outputs = json.loads(body if size is None else body[: int(size)])["outputs"]
        found = {tensor["name"]: _array(tensor, raw).reshape(tensor["shape"]) for tensor in outputs}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        raise ValueError(f"not an inference response: {type(error).__name__}: {error}") from error
    if raw.left:
        raise ValueError(f"not an inference response: {raw.left} bytes after its tensors")
    return found


class _Raw:
    """The bytes after the JSON, taken in the order of the outputs."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError(f"{size} bytes are announced, {self.left} are left")
        self._at += size
        return self._data[self._at - size : self._at]


def _datatype(name: str, array: np.ndarray[Any, Any]) -> str:
    datatype = _TEXT if array.dtype.kind == "U" else DATATYPES.get(array.dtype.name)
    if datatype is None:
        raise ValueError(f"input {name}: the protocol has no datatype for {array.dtype.name}")
    return datatype


def _raw(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind != "U":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [str(text).encode() for text in array.flat]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _array(tensor: Mapping[str, Any], raw: _Raw) -> np.ndarray[Any, Any]:
    """The tensor, flat."""
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    datatype, size = tensor["datatype"], (tensor.get("parameters") or {}).get("binary_data_size")
    if datatype == _TEXT:
        texts = tensor["data"] if size is None else list(_texts(raw.take(size)))
        if not all(isinstance(item, str) for item in texts):
            raise TypeError(f"{tensor['name']} has an element that is not a string")
        return np.array(texts, dtype=np.str_)
    if size is None:
        return np.array(tensor["data"], dtype=_DTYPES[datatype])
    return np.frombuffer(raw.take(size), dtype=np.dtype(_DTYPES[datatype]).newbyteorder("<")).astype(_DTYPES[datatype])


def _texts(data: bytes) -> Iterator[str]:
    """BYTES elements: each a length of 4 bytes and that many bytes of UTF-8."""
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise ValueError("an element of text extends beyond its tensor")
        yield data[at : at + length].decode()
        at += length


def _elements(array: np.ndarray[Any, Any]) -> str:
    text = json.dumps(array.ravel().tolist())
    # The text only has numbers, so both words are values that JSON lacks.
    return _NOT_FINITE.sub(r'"\g<0>"', text) if array.dtype.kind == "f" else text
