"""Scans a Keras file before TensorFlow is imported, and refuses code and references to other files.

Keras' own safe mode refuses little more than bytecode: TFSMLayer bypassed it (CVE-2026-1462), vocabularies were read from
any path or URL (CVE-2025-12058), HDF5 files can refer to other files (CVE-2026-1669). Only what models of Keras' own layers
need is accepted; everything else is refused with the layer's name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py

from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

__all__ = ["check_keras_file", "is_hdf5"]

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_LARGEST_CONFIG = 256 * 2**20
_EXPANDS_TO = 100
"""The maximum compression ratio. Keras stores entries uncompressed; deflate compresses by at most 1032."""

_MOST_OBJECTS = 100_000
"""The maximum number of groups and arrays in an HDF5 file; a large Keras model has a few thousand."""

_KERAS_EXPORT = "export the model where it was made, model.export('folder'), and write `kind: saved-model`"
_CODE = {
    "Lambda": "holds Python code",
    "__lambda__": "holds Python code",
    "TFSMLayer": "loads a SavedModel from a path outside the file",
    "JaxLayer": "holds a pickled function of JAX",
    "FlaxLayer": "holds a pickled module of Flax",
    "TorchModuleWrapper": "holds a pickled module of PyTorch",
    "TFOpLambda": "names a Python function to call",
    "SlicingOpLambda": "names a Python function to call",
    "TensorFlowOpLayer": "holds an operation of TensorFlow 1",
}
"""Class → why it is refused, whatever its configuration."""

_READ_FROM = frozenset({"vocabulary", "idf_weights", "filepath", "file_path", "filename", "path", "url", "directory"})
"""Settings with values or with the name of a file; a text is the name of a file."""

_FUNCTION_PARTS = "activations|constraints|initializers|losses|metrics|nn|ops|optimizers|quantizers|random|regularizers"
_FUNCTIONS = re.compile(rf"builtins|keras(\.src)?\.({_FUNCTION_PARTS})(\.\w+)*")
_CLASSES = re.compile(
    rf"keras(\.src)?(\.(_legacy|applications|dtype_policies|engine|layers|models|{_FUNCTION_PARTS})(\.\w+)*)?"
)
"""Modules of Keras whose functions and classes are parts of models; others load, download, save and display."""


@dataclass(frozen=True, slots=True)
class _Problem:
    what: str
    cause: str
    remedy: str


def is_hdf5(path: Path) -> bool:
    """Whether the file is in Keras' HDF5 format (`.h5`), rather than a `.keras` archive."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def check_keras_file(path: Path) -> None:
    """Refuse a file that is not a whole Keras model made of Keras' own parts.

    Raises:
        StepError: E301 another kind of file, E302 damaged, E303 it contains code or custom objects, E354 it reads other
            files, E355 it only has weights.
    """
    expect_kind(path, "keras", "keras")
    # On a damaged file, the zip, HDF5 and JSON readers each raise their own errors.
    with refuse_as(
        (OSError, zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, RecursionError),
        lambda error: _damaged(headline(error)),
    ):
        config = _hdf5_config(path) if is_hdf5(path) else _archive_config(path)
    _refuse_code(config)


def _archive_config(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise _damaged("the archive holds two entries of the same name")
        for entry in archive.infolist():
            if entry.filename.startswith("/") or ".." in Path(entry.filename).parts or "\\" in entry.filename:
                raise _damaged(f"the entry `{entry.filename[:80]}` points outside the archive")
            limit = (
                _LARGEST_CONFIG if entry.filename.endswith(".json") else max(2**28, _EXPANDS_TO * entry.compress_size)
            )
            if entry.file_size > limit:
                raise _damaged(f"the entry `{entry.filename[:80]}` unpacks to {entry.file_size >> 20} MiB")
        if _WEIGHTS in names:
            with archive.open(_WEIGHTS) as weights:
                _refuse_links(weights)
        return json.loads(archive.read(_CONFIG))


def _hdf5_config(path: Path) -> Any:
    _refuse_links(path)
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            held = ", ".join(f"`{name}`" for name in list(file)[:8]) or "nothing"
            raise StepError(
                "E355",
                "the HDF5 file holds no model, only weights",
                cause=f"it has no model configuration; it holds {held}",
                remedy="save the whole model: model.save('model.keras')",
                at=AT_WEIGHTS,
            )
        return json.loads(config)


def _refuse_links(file: Path | IO[bytes]) -> None:
    with h5py.File(file, "r") as opened:
        waiting = [opened["/"]]
        # Hard links may form cycles: without this check, scanning a tiny file might never end.
        seen = {_address(opened["/"])}
        while waiting:
            group = waiting.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise _elsewhere(f"`{group.name}/{name}` is a link to another file")
                if not isinstance(link, h5py.HardLink):
                    continue  # a link inside the file leads to an object that is scanned anyway
                member = group[name]
                if _address(member) in seen:
                    continue
                seen.add(_address(member))
                if len(seen) > _MOST_OBJECTS:
                    raise _damaged(f"it holds more than {_MOST_OBJECTS:,} groups and arrays")
                if isinstance(member, h5py.Group):
                    waiting.append(member)
                elif isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
                    raise _elsewhere(f"the values of `{member.name}` lie in another file")


def _address(member: h5py.Group | h5py.Dataset) -> int:
    """The object's address in the file, which is the same for all its names."""
    return int(h5py.h5o.get_info(member.id).addr)


def _refuse_code(config: Any) -> None:
    problems = list(dict.fromkeys(_problems(config)))
    if not problems:
        return
    first = problems[0]
    reads_only = all(problem.remedy == _INLINE for problem in problems)
    raise StepError(
        "E354" if reads_only else "E303",
        f"the Keras model cannot be loaded as data only: {first.what}",
        cause=first.cause,
        remedy=first.remedy,
        at=AT_WEIGHTS,
        notes=tuple(f"also: {problem.what} ({problem.cause})" for problem in problems[1:9]),
    )


_INLINE = (
    "save the model again after layer.set_vocabulary([...]) with the words themselves, so that they are in the file"
)


def _problems(config: Any) -> Iterator[_Problem]:
    waiting: list[tuple[Any, str]] = [(config, "")]
    while waiting:
        value, layer = waiting.pop()
        if isinstance(value, list):
            waiting.extend((item, layer) for item in reversed(value))
        if not isinstance(value, Mapping):
            continue
        settings = value.get("config")
        if isinstance(value.get("class_name"), str):
            name = settings.get("name") if isinstance(settings, Mapping) else None
            if isinstance(name, str):
                layer = name
            yield from _about_object(value, layer)
            if value["class_name"] in _CODE:
                continue  # it is refused as a whole
        if isinstance(settings, Mapping):
            for key in sorted(_READ_FROM & settings.keys()):
                if isinstance(settings[key], str) and settings[key]:
                    yield _Problem(
                        f"the layer `{layer}` ({value.get('class_name')}) reads a file",
                        f"its `{key}` is the path or URL `{settings[key][:80]}`",
                        _INLINE,
                    )
        # What only training needs is not loaded.
        parts = [(key, part) for key, part in value.items() if not (value is config and key == "compile_config")]
        waiting.extend((part, layer) for _, part in reversed(parts))


def _about_object(value: Mapping[str, Any], layer: str) -> Iterator[_Problem]:
    kind, module, registered = value["class_name"], value.get("module"), value.get("registered_name")
    where = f"the layer `{layer}`" if layer else "the model"
    if kind in _CODE:
        what = f"{where} ({kind}) {_CODE[kind]}"
        if kind in {"Lambda", "__lambda__"}:
            remedy = f"replace it with a layer made of Keras' own operations (keras.ops), or {_KERAS_EXPORT}"
        else:
            remedy = _KERAS_EXPORT
        yield _Problem(what, "loading it would run or read what the file names", remedy)
    elif kind == "function":
        name = value.get("config")
        if not isinstance(module, str) or not _FUNCTIONS.fullmatch(module):
            yield _custom(f"{where} uses the function `{_dotted(module, name)}`, which is not part of Keras' models")
    elif ">" in kind or (isinstance(registered, str) and ">" in registered):
        yield _custom(f"{where} is of the custom class `{registered or kind}`")
    elif (
        "module" in value
        and not kind.startswith("__")
        and (not isinstance(module, str) or not _CLASSES.fullmatch(module))
    ):
        yield _custom(f"{where} is of the class `{_dotted(module, kind)}`, which is not part of Keras' models")


def _dotted(module: Any, name: Any) -> str:
    return f"{module}.{name}"[:80] if module else str(name)[:80]


def _custom(what: str) -> _Problem:
    return _Problem(what, "its code is not in the file, and mlo does not import code for a model", _KERAS_EXPORT)


def _damaged(cause: str) -> StepError:
    return StepError(
        "E302", "the Keras file is damaged", cause=cause, remedy="copy it again, or save it again", at=AT_WEIGHTS
    )


def _elsewhere(cause: str) -> StepError:
    return StepError(
        "E354",
        "the Keras model reads files outside its own",
        cause=cause,
        remedy="save the whole model into one file: model.save('model.keras')",
        at=AT_WEIGHTS,
    )
