"""Requests with raw tensors whose JSON was read before: clients repeat it byte for byte, and only the tensors differ.

The same bytes mean the same checked request, so only the raw tensors are cut out anew: 2 microseconds instead of 7, and 20
instead of 39 where the model has left nothing of the parser in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from .binary import decode_binary, from_bytes
from .request import InferRequest
from .signature import Signature, Tensor

__all__ = ["KnownHeads"]

_MOST_HEADS = 64
_MOST_BYTES = 4096


class _Place(NamedTuple):
    """Where a tensor lies in the body."""

    tensor: Tensor
    start: int
    stop: int
    shape: tuple[int, ...]


class _Head(NamedTuple):
    request: InferRequest
    places: Sequence[_Place]
    end: int


class KnownHeads:
    """Reads the binary requests of one model."""

    def __init__(self, signature: Signature) -> None:
        """Know none."""
        self._signature = signature
        self._heads: dict[bytes, _Head] = {}

    def decode(self, body: bytes | bytearray, json_length: int) -> InferRequest:
        """As `decode_binary`."""
        head = bytes(body[:json_length])
        known = self._heads.get(head)
        if known is None or known.end != len(body):
            request = decode_binary(body, json_length, self._signature)
            self._remember(head, request)
            return request
        view = memoryview(body)
        inputs = {
            place.tensor.name: from_bytes(place.tensor, view[place.start : place.stop]).reshape(place.shape)
            for place in known.places
        }
        return known.request._replace(inputs=inputs)

    def _remember(self, head: bytes, request: InferRequest) -> None:
        """Keep a head that may come again: one with an id will not."""
        if request.id or len(head) > _MOST_BYTES:
            return
        places: dict[str, _Place] = {}
        position = len(head)
        for item in orjson.loads(head)["inputs"]:
            name = item["name"]
            size = (item.get("parameters") or {}).get("binary_data_size")
            if size is None or self._signature.inputs[name].dtype == "string":  # texts of one size may be several
                return
            places[name] = _Place(self._signature.inputs[name], position, position + size, request.inputs[name].shape)
            position += size
        if len(self._heads) == _MOST_HEADS:
            self._heads.clear()
        in_order = [places[name] for name in self._signature.inputs]
        self._heads[head] = _Head(request._replace(inputs={}), in_order, position)
