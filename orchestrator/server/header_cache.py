"""Caches parsed JSON headers of binary requests: clients repeat them byte for byte, and only the tensors differ.

Identical bytes mean an identical, already checked request, so only the raw tensors have to be extracted: 2 microseconds
instead of 7, and 20 instead of 39 if the model has evicted the parser from the processor's caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from .binary import decode_binary, from_bytes
from .request import InferRequest
from .signature import Signature, Tensor

__all__ = ["HeaderCache"]

_MOST_HEADERS = 64
_MOST_BYTES = 4096


class _Place(NamedTuple):
    """The position of a tensor in the body."""

    tensor: Tensor
    start: int
    stop: int
    shape: tuple[int, ...]


class _Header(NamedTuple):
    request: InferRequest
    places: Sequence[_Place]
    end: int


class HeaderCache:
    """Reads the binary requests of one model."""

    def __init__(self, signature: Signature) -> None:
        """Start empty."""
        self._signature = signature
        self._headers: dict[bytes, _Header] = {}

    def decode(self, body: bytes | bytearray, json_length: int) -> InferRequest:
        """As `decode_binary`."""
        header = bytes(body[:json_length])
        known = self._headers.get(header)
        if known is None or known.end != len(body):
            request = decode_binary(body, json_length, self._signature)
            self._remember(header, request)
            return request
        view = memoryview(body)
        inputs = {
            place.tensor.name: from_bytes(place.tensor, view[place.start : place.stop]).reshape(place.shape)
            for place in known.places
        }
        return known.request._replace(inputs=inputs)

    def _remember(self, header: bytes, request: InferRequest) -> None:
        """Cache a header that may be repeated; one with an id will not be."""
        if request.id or len(header) > _MOST_BYTES:
            return
        places: dict[str, _Place] = {}
        position = len(header)
        for item in orjson.loads(header)["inputs"]:
            name = item["name"]
            size = (item.get("parameters") or {}).get("binary_data_size")
            if (
                size is None or self._signature.inputs[name].dtype == "string"
            ):  # texts of equal size in bytes can differ in number
                return
            places[name] = _Place(self._signature.inputs[name], position, position + size, request.inputs[name].shape)
            position += size
        if len(self._headers) == _MOST_HEADERS:
            self._headers.clear()
        in_order = [places[name] for name in self._signature.inputs]
        self._headers[header] = _Header(request._replace(inputs={}), in_order, position)
