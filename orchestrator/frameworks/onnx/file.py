"""Reads untrusted ONNX models and the files with their tensors; everything is checked first.

A model names the files with its tensors, and its author can name any file. So a path must stay below the model's folder and
contain no links. Each file is checked after it was opened and read through the same descriptor, so that it cannot be
replaced in between. Hard links are refused too, because unpacking an archive can create one to a private file.
(CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, CVE-2026-34446, CVE-2026-34447, GHSA-q56x-g2fj-4rj6.)
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from orchestrator.frameworks.onnx.graph import nodes, tensors, texts
from orchestrator.frameworks.onnx.ir_version import lower_ir_version, too_new
from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.failures import is_out_of_memory, is_transient
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "LARGEST_FILE",
    "ExternalData",
    "GivenModel",
    "checker_error",
    "embed",
    "open_external_data",
    "read_onnx",
    "stored_bytes",
]

_BITS = {
    onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}
"""Bits per element of the types with several elements per byte."""


@dataclass(frozen=True, slots=True)
class ExternalData:
    """The files with the tensors of one model, mapped into memory.

    Attributes:
        files: their paths relative to the model's folder, in the order in which the model names them.
    """

    files: tuple[str, ...]
    _contents: dict[str, memoryview]

    def of(self, tensor: Any) -> memoryview:
        """The bytes of a tensor in one of the files, not copied."""
        place = _Place.of(tensor)
        return self._contents[place.file][place.offset : place.offset + place.size]

    def array(self, tensor: Any) -> np.ndarray[Any, Any] | None:
        """The same as an array; None if numpy lacks the type or the tensor is not aligned."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        content = self.of(tensor)
        if dtype.kind not in "biuf" or tensor.data_type in _BITS or not content:
            return None
        array = np.frombuffer(content, dtype)
        return array.reshape(tuple(tensor.dims)) if array.flags.aligned else None


def open_external_data(model: Any, folder: Path) -> ExternalData:
    """Open all files with tensors of the model, and check that they contain them.

    Args:
        model: as parsed, without its external data.
        folder: the folder of the model's file.

    Raises:
        StepError: E360 a path leads out of the folder or through a link; E361 a file is missing or too short.
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
                f"the tensor is {place.size} bytes from byte {place.offset} on, but the file has {held}",
            )
    return ExternalData(tuple(contents), contents)


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a tensor: file, first byte and number of bytes."""

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
                f"the model gives two sizes for the tensor `{tensor.name}`",
                f"{length} bytes in its file, but {size} by its type and shape {list(tensor.dims)}",
            )
        return _Place(_inside(tensor, entries.get("location", "")), _number(tensor, entries, "offset", 0), size)


def _size(tensor: Any) -> int:
    """The number of bytes of a tensor, from its type and shape."""
    kind = tensor.data_type
    if kind in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) or any(size < 0 for size in tensor.dims):
        raise _wrong(
            f"the tensor `{tensor.name}` cannot be stored in a file of its own",
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
        raise _wrong(f"the model gives no number for the {key} of the tensor `{tensor.name}`", f"it says {text[:40]!r}")
    return int(text)


def _inside(tensor: Any, location: str) -> str:
    """The path relative to the model's folder, normalized."""
    path = PurePosixPath(location)
    if "\0" in location or not path.parts:
        raise _wrong(f"the model names no file for the tensor `{tensor.name}`", f"it says {location[:80]!r}")
    if path.is_absolute() or ".." in path.parts:
        raise StepError(
            "E360",
            f"the model takes the tensor `{tensor.name}` from a file outside its folder",
            cause=f"it names {location!r}, and only files below the folder of the model's file are read",
            remedy=_name_beside(location, path.name),
            at=AT_WEIGHTS,
        )
    return str(path)


def _name_beside(location: str, name: str) -> str:
    """How to move a tensor's file beside the model; onnx itself loads no model whose data lie elsewhere."""
    if name in ("", ".."):
        return "export the model again, with its tensors in a file beside it"
    return (
        f"put that file beside the model, and let the model name it there: m = onnx.load(path, load_external_data=False); "
        f"[setattr(e, 'value', {name!r}) for t in m.graph.initializer for e in t.external_data "
        f"if e.value == {location!r}]; onnx.save(m, path)"
    )


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
    """A descriptor of the file, opened without following links.

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
        # O_NONBLOCK: opening a named pipe must not block.
        descriptor = _step(name, file, above, os.O_NONBLOCK)
    finally:
        os.close(above)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise _link(file, f"`{file}` has {found.st_nlink} hard links: it is the same file as one that lies elsewhere")
    raise _wrong(f"`{file}`, which holds tensors of the model, is not a regular file", "it is a folder or a device")


def _step(part: str, file: str, above: int, flags: int) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=above)
    except OSError as error:
        if _is_link(part, above):
            where = f"`{part}`, which leads to `{file}`," if flags & os.O_DIRECTORY else f"`{file}`"
            raise _link(file, f"{where} is a symbolic link") from error
        raise _wrong(
            f"`{file}`, which holds tensors of the model, cannot be read",
            (error.strerror or str(error)).lower(),
            "put it beside the model's file: a model with external data consists of all its files",
        ) from error


def _is_link(name: str, above: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except OSError:
        return False  # the code that opens it reports the problem


def _link(file: str, cause: str) -> StepError:
    return StepError(
        "E360",
        f"`{file}`, which holds tensors of the model, is a link",
        cause=f"{cause}, and a model must not lead to files outside its folder",
        remedy="copy the model with its files into a folder of its own (`cp -rL FROM TO`), and name that",
        at=AT_WEIGHTS,
    )


def _wrong(message: str, cause: str, remedy: str = "copy or export the model with all its files again") -> StepError:
    return StepError("E361", message, cause=cause, remedy=remedy, at=AT_WEIGHTS)


LARGEST_FILE = 2**31 - 1
"""The maximum size of a protobuf message; larger models keep their weights in other files."""

_LARGEST_CHECKED = 2**30
"""The maximum size of a model that the checker gets, because it makes several copies."""

_SMALL = 4096
"""Tensors with fewer bytes than this are copied into the model."""

_LISTED = 8
_KNOWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)
"""Domains whose operators ONNX Runtime itself registers."""


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A model as given.

    Attributes:
        proto: the ModelProto. Large weights (initializers of the main graph) may be in other files and are not loaded.
        data: these files.
        lowered: what was done to an IR version that is newer than the runtime's, as a sentence without its end.
    """

    proto: Any
    data: ExternalData
    lowered: str = ""

    @property
    def inputs(self) -> list[Any]:
        """The inputs of a call, without initializers that are also inputs (before IR version 4, all are)."""
        graph = self.proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        stored |= {sparse.values.name for sparse in graph.sparse_initializer}
        return [value for value in graph.input if value.name not in stored]

    @property
    def opset(self) -> int:
        """The version of the standard operators; 0 if the model uses none."""
        versions = [entry.version for entry in self.proto.opset_import if entry.domain in {"", "ai.onnx"}]
        return max(versions, default=0)


def read_onnx(path: Path) -> GivenModel:
    """The model at `path`, with an IR version that the runtime reads.

    Raises:
        StepError: E301 not an ONNX file, E302 truncated, damaged or of a version that is too new, E360 and E361 other files of the model, E364 operators
            that ONNX Runtime does not have, E365 nothing to run.
    """
    expect_kind(path, "onnx", "onnx")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise _damaged(
            "the file is larger than an ONNX file can be",
            f"it has {size} bytes, and a protobuf message ends at 2 GiB",
            "export the model with its weights as external data",
        )
    with refuse_as(
        DecodeError,
        lambda error: _damaged(
            "the ONNX file cannot be read", f"it is cut off or damaged: {error}", "copy or export it again"
        ),
    ):
        proto = onnx.ModelProto.FromString(path.read_bytes())
    if any(isinstance(text, bytes) for text in texts(proto)):
        raise _damaged("the ONNX file cannot be read", "a name in it is not UTF-8", "copy or export it again")
    # Training information is not run, and may refer to further files.
    del proto.training_info[:]
    data = open_external_data(proto, path.parent)
    _embed_small(proto, data)
    given = proto.ir_version
    model = GivenModel(proto, data, lower_ir_version(proto))
    _check_runs_something(model)
    _check_domains(proto)
    if model.lowered and (against := checker_error(model)):
        raise too_new(given, f"ONNX's checker does not accept it as IR version {proto.ir_version}: {against}")
    return model


def embed(model: Any, data: ExternalData) -> None:
    """Move everything from the other files into the model (a ModelProto) itself."""
    for tensor in tensors(model):
        if uses_external_data(tensor):
            content = bytes(data.of(tensor))
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = content


def _embed_small(model: Any, data: ExternalData) -> None:
    """Move everything but large weights into the model itself: ONNX Runtime only accepts initializers separately."""
    large = [
        tensor
        for tensor in model.graph.initializer
        if uses_external_data(tensor) and len(data.of(tensor)) >= _SMALL and data.array(tensor) is not None
    ]
    for tensor in large:
        tensor.data_location = onnx.TensorProto.DEFAULT  # so that it is skipped
    embed(model, data)
    for tensor in large:
        tensor.data_location = onnx.TensorProto.EXTERNAL


def stored_bytes(model: GivenModel) -> int:
    """The size of the model as one file, bytes."""
    outside = sum(len(model.data.of(t)) for t in tensors(model.proto) if uses_external_data(t))
    return int(model.proto.ByteSize()) + outside


def checker_error(model: GivenModel) -> str:
    """The error of ONNX's own checker; empty if it accepts the model.

    Runtimes accept some models that the checker rejects, such as those with a producer's own operator names.
    """
    if stored_bytes(model) > _LARGEST_CHECKED:
        return ""
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    embed(whole, model.data)
    try:
        onnx.checker.check_model(whole, full_check=True)
    # On damaged models it also raises errors from its C++ code.
    except Exception as error:
        if is_out_of_memory(error) or is_transient(error):
            raise
        return headline(error)
    return ""


def _check_runs_something(model: GivenModel) -> None:
    graph = model.proto.graph
    missing = next(
        (
            what
            for what, found in (("nodes", graph.node), ("inputs", model.inputs), ("outputs", graph.output))
            if not found
        ),
        None,
    )
    if missing is None:
        return
    raise StepError(
        "E365",
        f"the model's graph has no {missing}",
        cause=f"it has {len(graph.node)} nodes, {len(model.inputs)} inputs and {len(graph.output)} outputs"
        + (", beside initializers" if graph.input and not model.inputs else ""),
        remedy="export the whole model; a file of weights alone cannot be run",
        at=AT_WEIGHTS,
    )


def _check_domains(model: Any) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    foreign = {
        f"{node.domain}:{node.op_type}"
        for node in nodes(model)
        if node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in own
    }
    if not foreign:
        return
    named = sorted(foreign)
    more = f" and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
    raise StepError(
        "E364",
        f"the model uses operators that ONNX Runtime does not have: {', '.join(named[:_LISTED])}{more}",
        cause="they belong to a custom domain; a library that provides them would be code, which mlo does not load",
        remedy="export the model with standard operators, or with the custom ones written as functions of the model",
        at=AT_WEIGHTS,
    )


def _damaged(message: str, cause: str, remedy: str) -> StepError:
    return StepError("E302", message, cause=cause, remedy=remedy, at=AT_WEIGHTS)
