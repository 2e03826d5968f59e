"""Identifies model files by their first bytes and their table of contents, without a framework and without running them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, BinaryIO, Literal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileKind", "describe", "file_kind"]

FileKind = Literal[
    "safetensors",
    "checkpoint",
    "torchscript",
    "exported-program",
    "onnx",
    "keras",
    "tflite",
    "saved-model",
    "damaged",
    "other",
]
"""What the file can be used as. `checkpoint` is any file written by `torch.save`, whatever it contains."""

_LEGACY_CHECKPOINT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.serialization.MAGIC_NUMBER, pickled
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF file"),
    (b"\x7fELF", "a compiled library"),
    (b"\x93NUMPY", "a numpy array"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_IR_VERSION, _GRAPH, _OPSET = 1, 7, 8
_LARGEST = 2**31  # bytes of a protobuf message
_FIELDS_LOOKED_AT = 64
_NUMBER, _BYTES = 0, 2
_MODEL_PROTO = {_IR_VERSION: _NUMBER, 5: _NUMBER} | dict.fromkeys((2, 3, 4, 6, _GRAPH, _OPSET, 14, 20, 25, 26), _BYTES)
"""Field number → wire type, for every field of an ONNX model (ModelProto in onnx.proto)."""


def file_kind(path: Path) -> FileKind:
    """What the file at `path` can be used as."""
    return _look(path)[0]


def describe(path: Path) -> str:
    """What the file at `path` looks like, in words: "an ONNX model", "a Git LFS pointer", ..."""
    return _look(path)[1]


def _look(path: Path) -> tuple[FileKind, str]:
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved-model", "a SavedModel folder"
        return "other", "a folder"
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "damaged", "an empty file"
    if head.startswith(b"PK\x03\x04"):
        return _look_into_zip(path)
    if head.startswith(_LEGACY_CHECKPOINT):
        return "checkpoint", "a PyTorch checkpoint in the format used before PyTorch 1.6"
    if _is_safetensors(head):
        return "safetensors", "a safetensors file"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras", "an HDF5 file, such as Keras writes with the extension .h5"
    if head[4:8] == b"TFL3":
        return "tflite", "a LiteRT (TFLite) model"
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return "other", words
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "other", "a Git LFS pointer: the file itself has not been fetched (git lfs pull)"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "other", "an HTML page, perhaps from a failed download"
    if _is_onnx(path):
        return "onnx", "an ONNX model"
    if _PICKLE.match(head):
        return "other", "a Python pickle"
    if _is_text(head):
        return "other", "a text file"
    return "other", "an unknown kind of file"


def _look_into_zip(path: Path) -> tuple[FileKind, str]:
    import zipfile  # noqa: PLC0415 - most models are no archive

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            start = min((entry.header_offset for entry in archive.infolist()), default=0)
    except (zipfile.BadZipFile, OSError):
        start, names = 1, []
    if start > 0:  # what was found is then an archive inside a truncated one
        return "damaged", "a truncated or damaged zip archive"
    inner = {name.partition("/")[2] for name in names}  # PyTorch puts all below one folder, named after the file
    if "archive_format" in inner or "models/model.json" in inner or "serialized_exported_program.json" in names:
        return "exported-program", "an exported program"
    if "constants.pkl" in inner:
        return "torchscript", "a TorchScript archive"
    if "data.pkl" in inner:
        return "checkpoint", "a PyTorch checkpoint"
    if {"config.json", "metadata.json"} <= set(names):
        return "keras", "a Keras model"
    if names and all(name.endswith(".npy") for name in names):
        return "other", "an npz file of numpy arrays"
    return "other", "a zip archive not written by PyTorch"


def _is_safetensors(head: bytes) -> bool:
    # Eight bytes, little-endian: the length of the JSON header that follows.
    return len(head) > 8 and int.from_bytes(head[:8], "little") < 2**32 and head[8:9] == b"{"


def _is_onnx(path: Path) -> bool:
    """Whether the file begins like the protobuf of an ONNX model, up to its graph; a truncated one may not get that far.

    The tags and lengths of the outermost fields are read here, by protobuf's published wire format, and no field's content is
    decoded. The library protobuf only parses whole messages: it would load gigabytes of weights, accept as an ONNX model
    whatever its lenient parser takes (unknown fields are valid), and need the package `onnx`, which the core does not have.
    """
    seen: set[int] = set()
    with path.open("rb") as file:
        for _ in range(_FIELDS_LOOKED_AT):
            tag, value = _varint(file), _varint(file)
            if _GRAPH in seen or tag is None or value is None:
                break
            if _MODEL_PROTO.get(tag >> 3) != tag & 7 or value > _LARGEST:
                return False
            seen.add(tag >> 3)
            if tag & 7 == _BYTES:
                file.seek(value, 1)
    return _IR_VERSION in seen and (_GRAPH in seen or _OPSET in seen)


def _varint(file: BinaryIO) -> int | None:
    """The next number of protobuf's wire format, seven bits in a byte; None where there is none."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not just a truncated character
            return False
        text = head[: error.start].decode("utf-8")
    return json.dumps(text, ensure_ascii=False).count("\\u00") == 0
