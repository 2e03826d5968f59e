"""Warm-up records for TensorFlow Serving: a TFRecord file of PredictionLog messages, written without TensorFlow.

The server runs each record once before a version counts as loaded, so that no request has to wait for what TensorFlow
prepares when it first sees a shape. The messages are generated classes (`messages.proto`); the framing of the file is
defined in `tensorflow/core/lib/io/record_writer.h`.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from orchestrator.spec.signature import Signature

__all__ = ["WARMUP_FILE", "crc32c", "warmup_records"]

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Path of the file in a version's folder."""

MOST_BYTES = 16 * 2**20
"""The maximum size of all records together; the first record is always written."""

DATA_TYPES = {
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "int32": "DT_INT32",
    "uint8": "DT_UINT8",
    "int16": "DT_INT16",
    "int8": "DT_INT8",
    "string": "DT_STRING",
    "int64": "DT_INT64",
    "bool": "DT_BOOL",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
}
"""dtype → TensorFlow's DataType, for every dtype that the REST API supports."""

_CASTAGNOLI = 0x82F63B78
"""The polynomial of CRC-32C with its bits reversed."""


def warmup_records(
    samples: Mapping[str, np.ndarray[Any, Any]], signature: Signature, name: str, sizes: Sequence[int]
) -> bytes:
    """The content of the file: one record of real samples for each batch size, the smallest and the largest first.

    Args:
        samples: the inputs by name, with rows as the first axis; rows are repeated if there are too few.
        signature: of the model.
        name: of the model on the wire.
        sizes: rows of each record; ignored for a model without a batch dimension, which gets a single record.
    """
    import numpy as np  # noqa: PLC0415 - the command line starts without numpy

    if signature.batch is None:
        return _framed(_record({t.name: samples[t.name][0] for t in signature.inputs}, signature, name))
    usable = sorted({max(size, signature.covering(signature.batch, size)) for size in sizes})
    content = b""
    for size in dict.fromkeys([usable[0], usable[-1], *usable]):
        rows = {t.name: samples[t.name].take(np.arange(size), axis=0, mode="wrap") for t in signature.inputs}
        framed = _framed(_record(rows, signature, name))
        if not content or len(content) + len(framed) <= MOST_BYTES:
            content += framed
    return content


def _record(inputs: Mapping[str, np.ndarray[Any, Any]], signature: Signature, name: str) -> bytes:
    """A serialized PredictionLog with one request."""
    from orchestrator.backends.tensorflow_serving import messages_pb2 as pb  # noqa: PLC0415 - the core lacks protobuf

    request = pb.PredictRequest(model_spec=pb.ModelSpec(name=name, signature_name="serving_default"))
    for tensor in signature.inputs:
        array = inputs[tensor.name]
        shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in array.shape])
        proto = pb.TensorProto(dtype=DATA_TYPES[tensor.dtype], tensor_shape=shape)
        if tensor.dtype == "string":
            proto.string_val.extend(str(text).encode() for text in array.ravel())
        else:
            proto.tensor_content = array.astype(array.dtype.newbyteorder("<")).tobytes()
        request.inputs[tensor.name].CopyFrom(proto)
    log = pb.PredictionLog(predict_log=pb.PredictLog(request=request))
    return log.SerializeToString(deterministic=True)


def _framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", _masked(length)) + record + struct.pack("<I", _masked(record))


def _masked(data: bytes) -> int:
    """The masked checksum of TFRecord files: rotated, plus a constant, because the data may itself contain checksums."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli).

    The register is linear in the data. So a message of n bytes is split into √n pieces of √n bytes; numpy processes one
    byte of every piece per step, and the registers are combined: each is shifted by the length of a piece, then xored.
    """
    table = _table()
    if len(data) < 64:
        crc = 0xFFFFFFFF
        for byte in data:
            crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    import numpy as np  # noqa: PLC0415 - as above

    pieces = math.isqrt(len(data))
    steps = -(-len(data) // pieces)
    padded = np.zeros(pieces * steps, np.uint8)
    message = padded[len(padded) - len(data) :]
    message[:] = np.frombuffer(data, np.uint8)
    # Starting from ones is the same as starting from zero with the first four bytes inverted, and then leading zeros
    # have no effect.
    message[:4] ^= 0xFF
    lookup = np.array(table, np.uint32)
    # The last 32 registers start with one bit each and read zeros: they show where a shift by a piece's length moves it.
    registers = np.concatenate([np.zeros(pieces, np.uint32), np.uint32(1) << np.arange(32, dtype=np.uint32)])
    columns = np.zeros((steps, pieces + 32), np.uint8)
    columns[:, :pieces] = padded.reshape(pieces, steps).T
    for column in columns:
        registers = lookup[(registers ^ column) & 0xFF] ^ (registers >> 8)
    shifted = registers[pieces:].tolist()
    crc = 0
    for register in registers[:pieces].tolist():
        crc = _shift(crc, shifted) ^ register
    return crc ^ 0xFFFFFFFF


def _shift(register: int, shifted: Sequence[int]) -> int:
    result = 0
    for bit, value in enumerate(shifted):
        if register >> bit & 1:
            result ^= value
    return result


def _table() -> list[int]:
    """The register after eight shifts, for each byte."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
        table.append(crc)
    return table
