"""Finds the model at a path and its kind by file names and first bytes, without a framework and without running it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.spec.model_files import describe, file_kind
from orchestrator.spec.source_models import FOLDERS, KIND_OF_FILE, SourceKind
from orchestrator.spec.source_text import similar_file

__all__ = ["ModelPath", "find_model"]

_MODELS = (
    "a .keras, .h5, .onnx, .tflite, .pt2 or .safetensors file, a TorchScript archive, a torch.save checkpoint, "
    "a SavedModel folder, or a Transformers folder with safetensors or pytorch_model.bin"
)
_POINTER = b"version https://git-lfs.github.com/spec/"
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A model and its location.

    Attributes:
        kind: as in the spec's `model.source.kind`.
        path: the file or folder for `weights`.
        remark: why the path differs from the one given; otherwise empty.
    """

    kind: SourceKind
    path: Path
    remark: str = ""


def find_model(path: Path, kind: SourceKind | None = None) -> ModelPath:
    """The model at `path`: a file, a model folder, a file inside a model folder, or a folder that contains one model.

    Args:
        path: as given by the user.
        kind: the kind, if given by the user.

    Raises:
        UsageError: E140 path not found, E141 not a model, E142 a Git LFS pointer, E143 damaged, E144 several models.
    """
    try:
        return _find(path, kind)
    except OSError as error:
        remedy = "change its permissions, or copy it"
        message = f"cannot read {error.filename or path}: {(error.strerror or str(error)).lower()}"
        raise UsageError(Diagnostic("E140", message, remedy=remedy)) from error


def _find(path: Path, kind: SourceKind | None) -> ModelPath:
    if not path.exists():
        near = similar_file(path)
        remedy = f"did you mean {near}?" if near is not None else "paths are relative to the current directory"
        raise UsageError(Diagnostic("E140", f"{path} does not exist", remedy=remedy))
    if not path.is_dir() and not path.is_file():
        raise UsageError(Diagnostic("E141", f"{path} is neither a file nor a folder", remedy=f"give {_MODELS}"))
    if kind is not None:
        return _of_given_kind(path, kind)
    if path.is_dir():
        return _in_folder(path)
    folder = _folder_around(path)
    if folder is not None:
        return folder
    return ModelPath(_kind_of_file(path), path)


def _of_given_kind(path: Path, kind: SourceKind) -> ModelPath:
    if kind in FOLDERS:
        if path.is_dir():
            return ModelPath(kind, path)
        return ModelPath(kind, path.parent, f"a model of kind {kind} is a folder")
    if not path.is_dir():
        _refuse_pointer(path)
        return ModelPath(kind, path)
    fitting = [found for found in _models_in(path) if found.kind == kind]
    return _the_only(path, fitting, f"no model of kind {kind}")


def _in_folder(folder: Path) -> ModelPath:
    kind = _kind_of_folder(folder)
    if kind is not None:
        return ModelPath(kind, folder)
    return _the_only(folder, _models_in(folder), "no model that mlo supports")


def _the_only(folder: Path, found: list[ModelPath], none: str) -> ModelPath:
    if len(found) == 1:
        return ModelPath(found[0].kind, found[0].path, f"it is the only model in {folder}")
    if found:
        listed = ", ".join(f"{each.path.name} ({each.kind})" for each in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(
            Diagnostic(
                "E144",
                f"{folder} contains several models",
                cause=f"{listed}{more}",
                remedy=f"give one of them: mlo init {found[0].path}",
            )
        )
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        _refuse_pointer(folder / name)
    if (folder / "config.json").is_file() and any(name.endswith((".bin", ".h5", ".msgpack")) for name in names):
        cause = "its weights belong to another framework, or have not the name that the Transformers library writes"
        remedy = "if you trust it, load it once and save it with model.save_pretrained(folder)"
        raise UsageError(Diagnostic("E141", f"{folder} is a Transformers folder without weights of PyTorch", cause=cause,
                                    remedy=remedy))  # fmt: skip
    cause = (
        f"it contains {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}" if names else "it is empty"
    )
    raise UsageError(Diagnostic("E141", f"{folder} contains {none}", cause=cause, remedy=f"give {_MODELS}"))


def _models_in(folder: Path) -> list[ModelPath]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if (kind := _kind_of(path)) is not None:
            found.append(ModelPath(kind, path))
    return found


def _kind_of(path: Path) -> SourceKind | None:
    if path.is_dir():
        return _kind_of_folder(path)
    return KIND_OF_FILE.get(file_kind(path)) if path.is_file() else None


def _kind_of_folder(folder: Path) -> SourceKind | None:
    if file_kind(folder) == "saved-model":
        _refuse_pointer(folder / "saved_model.pb")
        return "saved-model"
    if _is_transformers(folder):
        for weights in _transformers_weights(folder):
            _refuse_pointer(weights)
        return "transformers"
    return None


def _is_transformers(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = isinstance(config, dict) and ("model_type" in config or "architectures" in config)
    return named and bool(_transformers_weights(folder))


def _transformers_weights(folder: Path) -> list[Path]:
    """The files whose names say that the Transformers library reads weights from them."""
    return [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]


def _folder_around(file: Path) -> ModelPath | None:
    """The model that the file is part of, if it is inside a model folder."""
    if file.name in {"saved_model.pb", "saved_model.pbtxt"}:
        return ModelPath("saved-model", file.parent, "a SavedModel is a folder")
    part = file.name == "config.json" or any(
        file.match(pattern) for pattern in ("*.safetensors", "pytorch_model*.bin", "*.index.json")
    )
    if part and _is_transformers(file.parent):
        remark = "the file is part of a Transformers folder; use --kind pytorch for the file alone"
        _refuse_pointer(file)
        return ModelPath("transformers", file.parent, remark)
    return None


def _kind_of_file(file: Path) -> SourceKind:
    _refuse_pointer(file)
    found, words = file_kind(file), describe(file)
    if found in KIND_OF_FILE:
        return KIND_OF_FILE[found]
    if found == "damaged":
        raise UsageError(
            Diagnostic("E143", f"{file} is damaged", cause=f"it is {words}", remedy="copy, download or save it again")
        )
    remedy = f"give {_MODELS}; if it is one of these, set --kind"
    raise UsageError(
        Diagnostic("E141", f"{file} is not a model that mlo supports", cause=f"it looks like {words}", remedy=remedy)
    )


def _refuse_pointer(file: Path) -> None:
    if not file.is_file():
        return
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) != _POINTER:
            return
    raise UsageError(
        Diagnostic(
            "E142",
            f"{file} has not been downloaded",
            cause="it is a Git LFS pointer: a small text file in place of the real one",
            remedy="run `git lfs pull` in its repository",
        )
    )
