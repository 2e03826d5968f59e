"""The binary tensor extension: raw little-endian tensors after the JSON, in requests and answers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import ModelConfig
from .datatypes import Array, numpy_dtype
from .errors import RequestError
from .protocol import answer_json, holds_words, output_json, parse_object, request_from, response_head
from .request import InferRequest
from .signature import Signature, Tensor

__all__ = ["decode_binary", "encode_binary", "from_bytes", "to_bytes"]

_LENGTH = struct.Struct("<I")


def decode_binary(body: bytes | bytearray, json_length: int, signature: Signature) -> InferRequest:
    """The request in a body that begins with `json_length` bytes of JSON.

    Numeric tensors are views into `body`.

    Raises:
        RequestError: 400, saying what is wrong with it.
    """
    if json_length > len(body):
        raise RequestError(400, f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes")
    view = memoryview(body)
    raw = _Raw(view[json_length:])
    head = bytes(view[:json_length])
    request = request_from(parse_object(head), signature, raw.take, words=holds_words(head))
    if raw.left:
        raise RequestError(400, f"{raw.left} extra bytes after the tensors")
    return request


class _Raw:
    """The bytes after the JSON, consumed in the order of the inputs."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    @property
    def left(self) -> int:
        return len(self._data)

    def take(self, tensor: Tensor, size: Any) -> Array:
        """The next `size` bytes as a flat array."""
        if type(size) is not int or not 0 <= size <= len(self._data):
            raise RequestError(
                400, f"input {tensor.name!r}: binary_data_size must be from 0 to the {len(self._data)} bytes left"
            )
        data, self._data = self._data[:size], self._data[size:]
        return from_bytes(tensor, data)


def from_bytes(tensor: Tensor, data: memoryview) -> Array:
    """A tensor's raw bytes as a flat array; a view where the type allows it.

    Raises:
        RequestError: 400; the bytes are not whole elements, or a text is not UTF-8.
    """
    if tensor.dtype == "string":
        return _strings(tensor, data)
    dtype = numpy_dtype(tensor.dtype)
    if len(data) % dtype.itemsize:
        raise RequestError(
            400, f"input {tensor.name!r}: {len(data)} bytes are not a multiple of the size of {tensor.datatype}"
        )
    if tensor.dtype == "bool":
        # ONNX Runtime's kernels do not handle booleans whose byte is neither 0 nor 1.
        return np.frombuffer(data, dtype=np.uint8).astype(np.bool_)
    array = np.frombuffer(data, dtype=dtype)
    # The bytes may begin anywhere in the body; ONNX Runtime reads elements at their natural alignment.
    return array if array.flags.aligned else array.copy()


def _strings(tensor: Tensor, data: memoryview) -> Array:
    """BYTES elements: each a 4-byte length and that many bytes."""
    texts: list[str] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack(data[position:start])[0] if start <= len(data) else start
        if position > len(data):
            raise RequestError(400, f"input {tensor.name!r}: a BYTES element extends beyond the tensor's bytes")
        try:
            texts.append(str(data[start:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(400, f"input {tensor.name!r}: element {len(texts)} is not UTF-8") from error
    return np.array(texts, dtype=object)


def to_bytes(array: Array) -> bytes:
    """A tensor as raw bytes in row-major order."""
    if array.dtype != object:
        return array.tobytes()
    texts = [str(text).encode() for text in array.flat]
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def encode_binary(model: ModelConfig, request: InferRequest, outputs: Mapping[str, Array]) -> tuple[bytes, int]:
    """The answer's body and how many bytes of JSON it begins with."""
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for wanted in request.outputs:
        array = outputs[wanted.tensor.name]
        if not wanted.binary:
            described.append(output_json(wanted.tensor, array))
            continue
        blob = to_bytes(array)
        described.append(
            {
                "name": wanted.tensor.name,
                "datatype": wanted.tensor.datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(blob)},
            }
        )
        blobs.append(blob)
    head = answer_json(response_head(model, request.id) | {"outputs": described})
    return b"".join((head, *blobs)), len(head)
