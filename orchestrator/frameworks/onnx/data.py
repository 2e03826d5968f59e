"""Opens the files beside an ONNX model that hold its tensors, and nothing else.

A model names such files by itself, and whoever made it may name any. So a path leads from the model's folder downwards,
step by step, through no link; what is opened is looked at before it is read, and read where it was opened: nothing can
be put in its place meanwhile. A hard link is refused as well, since unpacking an archive can make one to a private file.
(CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447, GHSA-q56x-g2fj-4rj6.)
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import uses_external_data

from orchestrator.frameworks.onnx.walk import tensors
from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS
from orchestrator.steps import StepError

__all__ = ["ExternalData", "open_external_data"]

_BITS = {
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}
"""Bits of the types of which several share a byte."""


@dataclass(frozen=True, slots=True)
class ExternalData:
    """The files of one model that hold tensors, mapped into memory.

    Attributes:
        files: their paths relative to the model's folder, in the order in which the model names them.
    """

    files: tuple[str, ...]
    _contents: dict[str, memoryview]

    def of(self, tensor: Any) -> memoryview:
        """The bytes of a tensor that lies in one of the files; they stay where they are."""
        place = _Place.of(tensor)
        return self._contents[place.file][place.offset : place.offset + place.size]

    def array(self, tensor: Any) -> np.ndarray[Any, Any] | None:
        """The same as an array; None where numpy lacks the type, or the tensor lies askew."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        content = self.of(tensor)
        if dtype.kind not in "biuf" or tensor.data_type in _BITS or not content:
            return None
        array = np.frombuffer(content, dtype)
        return array.reshape(tuple(tensor.dims)) if array.flags.aligned else None


def open_external_data(model: Any, folder: Path) -> ExternalData:
    """Open every file that a tensor of the model lies in, and check that it holds what the model says.

    Args:
        model: as parsed, its external data not loaded.
        folder: where the model's file lies.

    Raises:
        StepError: E360 a path that leads out of the folder, or through a link; E361 no such file, or one that is too short.
    """
    contents: dict[str, memoryview] = {}
    for tensor in tensors(model):
        if not uses_external_data(tensor):
            continue
        place = _Place.of(tensor)
        if place.file not in contents:
            contents[place.file] = _mapped(place.file, folder)
        held = len(contents[place.file])
        if place.offset + place.size > held:
            raise _wrong(
                f"`{place.file}` is too short for the tensor `{tensor.name}`",
                f"the tensor is {place.size} bytes from byte {place.offset} on, and the file has {held}",
            )
    return ExternalData(tuple(contents), contents)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: a file, the first byte, and how many."""

    file: str
    offset: int
    size: int

    @staticmethod
    def of(tensor: Any) -> _Place:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        size = _size(tensor)
        length = _number(tensor, entries, "length", size)
        if length != size:
            raise _wrong(
                f"the model says two sizes of the tensor `{tensor.name}`",
                f"{length} bytes of its file, and {size} by its type and shape {list(tensor.dims)}",
            )
        return _Place(_inside(tensor, entries.get("location", "")), _number(tensor, entries, "offset", 0), size)


def _size(tensor: Any) -> int:
    """The bytes of a tensor by its type and shape."""
    kind = tensor.data_type
    if kind in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) or any(size < 0 for size in tensor.dims):
        raise _wrong(
            f"the tensor `{tensor.name}` cannot lie in a file of its own",
            "only numbers of a known type and shape can",
        )
    try:
        bits = _BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    except KeyError:
        raise _wrong(f"the tensor `{tensor.name}` is of an unknown type", f"its type is {kind}") from None
    return int(-(-math.prod(tensor.dims) * bits // 8))


def _number(tensor: Any, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()):
        raise _wrong(f"the model says no number for the {key} of the tensor `{tensor.name}`", f"it says {text[:40]!r}")
    return int(text)


def _inside(tensor: Any, location: str) -> str:
    """The path relative to the model's folder, without detours."""
    path = PurePosixPath(location)
    if "\0" in location or not path.parts:
        raise _wrong(f"the model names no file for the tensor `{tensor.name}`", f"it says {location[:80]!r}")
    if path.is_absolute() or ".." in path.parts:
        raise StepError(
            "E360",
            f"the model takes the tensor `{tensor.name}` from a file outside of its folder",
            cause=f"it names {location!r}, and only files below the folder of the model's file are read",
            remedy="put the file beside the model and save it again: onnx.save(onnx.load(path), path, "
            'save_as_external_data=True, location="model.onnx.data")',
            at=AT_WEIGHTS,
        )
    return str(path)


def _mapped(file: str, folder: Path) -> memoryview:
    descriptor = _opened(file, folder)
    try:
        # An empty file cannot be mapped.
        if os.fstat(descriptor).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _opened(file: str, folder: Path) -> int:
    """A descriptor of the file, which no link led to.

    Raises:
        StepError: E360, E361.
    """
    *folders, name = PurePosixPath(file).parts
    above = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            below = _step(part, file, above, os.O_DIRECTORY)
            os.close(above)
            above = below
        # O_NONBLOCK: a named pipe must not hold up the open.
        descriptor = _step(name, file, above, os.O_NONBLOCK)
    finally:
        os.close(above)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise _link(file, f"`{file}` has {found.st_nlink} hard links: it is the same file as one that lies elsewhere")
    raise _wrong(f"`{file}`, which the model takes tensors from, is no regular file", "it is a folder or a device")


def _step(part: str, file: str, above: int, flags: int) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=above)
    except OSError as error:
        if _is_link(part, above):
            where = f"`{part}`, which leads to `{file}`," if flags & os.O_DIRECTORY else f"`{file}`"
            raise _link(file, f"{where} is a symbolic link") from error
        raise _wrong(
            f"`{file}`, which the model takes tensors from, cannot be read",
            (error.strerror or str(error)).lower(),
            "put it beside the model's file: a model with external data is all of its files",
        ) from error


def _is_link(name: str, above: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except OSError:
        return False  # what is wrong with it was told by who tried to open it


def _link(file: str, cause: str) -> StepError:
    return StepError(
        "E360",
        f"`{file}`, which the model takes tensors from, is a link",
        cause=f"{cause}, and a model must not lead to files outside of its folder",
        remedy="copy the model with its files into a folder of its own (`cp -rL FROM TO`), and name that",
        at=AT_WEIGHTS,
    )


def _wrong(message: str, cause: str, remedy: str = "copy or export the model with all its files again") -> StepError:
    return StepError("E361", message, cause=cause, remedy=remedy, at=AT_WEIGHTS)
