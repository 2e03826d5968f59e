"""Reads the files of a Transformers folder as data, and refuses unsafe ones before a model is built.

The library gets the configuration and the tensors that are read here, never the folder itself. So a folder cannot make it
import code, unpickle weights or load adapters of other models. `pytorch_model.bin` is read as any checkpoint is: its tensors, and
no Python object.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.pytorch.weights import read_state_dict, shown
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.transformers.modules import (
    MODULES,
    SentenceModules,
    json_object,
    optional_object,
    sentence_modules,
)
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

__all__ = ["ModelFolder", "part_tensors", "read_folder", "read_tensors"]

_CONFIG = "config.json"
_SAFETENSORS, _CHECKPOINT = "model.safetensors", "pytorch_model.bin"
_WEIGHTS = (_SAFETENSORS, f"{_SAFETENSORS}.index.json", _CHECKPOINT, f"{_CHECKPOINT}.index.json")
"""Files that the library writes, the first that exists is read: whole, or the list of the files that hold the parts."""

_NOT_READ = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_SAVE_AGAIN = (
    "load it once where you trust it, and `model.save_pretrained(folder)` writes safetensors; save its tokenizer too"
)
_OTHER_WEIGHTS = {
    "tf_model.h5": "TensorFlow's weights",
    "flax_model.msgpack": "Flax' weights",
    "*.gguf": "a GGUF file",
    "*.onnx": "an ONNX model: its own kind is `onnx`",
    "*.msgpack": "Flax' weights",
}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files were checked: complete and safe.

    Attributes:
        root: the path in `weights:`.
        path: the folder of the model itself: the root, or a folder in it.
        config: of the model, `config.json`.
        tokenizer: `tokenizer_config.json`; empty if there is none.
        image: `preprocessor_config.json`; empty if there is none.
        weights: the files that hold them.
        modules: the modules of a sentence-transformer after the model; None for other models.
    """

    root: Path
    path: Path
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    image: Mapping[str, Any]
    weights: tuple[Path, ...]
    modules: SentenceModules | None


def read_folder(root: Path, task: str) -> ModelFolder:
    """Read everything but the tensors.

    Args:
        root: the path in `weights:`.
        task: of the spec; the modules of a sentence-transformer are only read if the task may be sentence embedding.

    Raises:
        StepError: E301 no such model, E302 a file that is damaged, E303 code, E354 links or files elsewhere, E373 quantized
            weights, E374 an unsupported module of a sentence-transformer, E376 an adapter.
    """
    if not root.is_dir():
        raise StepError(
            "E301",
            "the weights are not a folder of the Transformers library",
            cause=f"{root.name} is {'a file' if root.exists() else 'missing'}",
            remedy="name the folder that holds config.json and the weights",
            at=AT_WEIGHTS,
        )
    _refuse_links(root)
    embeds = task in {"auto", "sentence-embedding"} and (root / MODULES).is_file()
    modules = sentence_modules(root) if embeds else None
    path = root / modules.model if modules is not None else root
    if not (path / _CONFIG).is_file():
        raise _no_config(path)
    config = json_object(path / _CONFIG)
    _refuse_code(config, _CONFIG)
    _refuse_other_weights(path, config)
    tokenizer, image = (optional_object(path / name) for name in ("tokenizer_config.json", "preprocessor_config.json"))
    return ModelFolder(root, path, config, tokenizer, image, _weight_files(path), modules)


def read_tensors(folder: ModelFolder) -> dict[str, torch.Tensor]:
    """All tensors in the folder's files by stored name, on the CPU.

    Raises:
        StepError: E302 a file is damaged or truncated, E303 it holds Python objects, E308 more than tensors.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in folder.weights:
        tensors |= read_state_dict(file, None)
    return tensors


def part_tensors(folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The file in the folder of a sentence-transformer's module, and its tensors; none if there is no file.

    Raises:
        StepError: as `read_tensors`.
    """
    for name in (_SAFETENSORS, _CHECKPOINT):
        if (folder / name).is_file():
            return name, read_state_dict(folder / name, None)
    return _SAFETENSORS, {}


def _refuse_links(root: Path) -> None:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise _elsewhere(
                    f"{path.relative_to(root)} is a link",
                    "copy the files themselves: cp -rL FOLDER COPY, which also works for the library's own cache",
                )


def _elsewhere(cause: str, remedy: str) -> StepError:
    return StepError("E354", "the model reaches outside its folder", cause=cause, remedy=remedy, at=AT_WEIGHTS)


def _no_config(path: Path) -> StepError:
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if "adapter_config.json" in names:
        return _adapter(path)
    return StepError(
        "E301",
        "the folder is not a Transformers model",
        cause=f"{path.name} has no config.json; it holds {shown(names) or 'nothing'}",
        remedy="name the folder that `model.save_pretrained(folder)` wrote",
        at=AT_WEIGHTS,
    )


def _adapter(path: Path) -> StepError:
    return StepError(
        "E376",
        "the folder holds an adapter, which is only a part of a model",
        cause=f"{path.name}/adapter_config.json",
        remedy="merge it into its model: `model.merge_and_unload().save_pretrained(folder)` of the PEFT library",
        at=AT_WEIGHTS,
    )


def _refuse_code(config: Any, where: str) -> None:
    """Refuse a configuration that names code in the folder."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            if named := value.get("auto_map"):
                classes = sorted(map(str, named.values())) if isinstance(named, dict) else [str(named)]
                raise StepError(
                    "E303",
                    "the model is built by code that comes with it",
                    cause=f"{where} has `auto_map`, which names {shown([f'`{name}`' for name in classes])}",
                    remedy="if the Transformers library knows this architecture by itself, remove `auto_map` from "
                    f"{where}; if not, export the model to ONNX where you trust its code",
                    at=AT_WEIGHTS,
                )


def _refuse_other_weights(path: Path, config: Mapping[str, Any]) -> None:
    if (path / "adapter_config.json").is_file():
        raise _adapter(path)
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else "unknown"
        raise StepError(
            "E373",
            "the model's weights are quantized already",
            cause=f"config.json has `quantization_config` with the method {method}",
            remedy="give the model as it was before quantization; mlo makes int8 variants of it and measures them",
            at=AT_WEIGHTS,
        )


def _weight_files(path: Path) -> tuple[Path, ...]:
    name = next((name for name in _WEIGHTS if (path / name).is_file()), None)
    if name is not None:
        return _parts(path, name) if name.endswith(".json") else (path / name,)
    if others := _found(path, _NOT_READ):
        raise StepError(
            "E301",
            "the folder has no weights under the names that the Transformers library writes",
            cause=f"there is {shown(others)}, but neither {_SAFETENSORS} nor {_CHECKPOINT}",
            remedy=_SAVE_AGAIN,
            at=AT_WEIGHTS,
        )
    for pattern, words in _OTHER_WEIGHTS.items():
        if found := _found(path, (pattern,)):
            raise StepError(
                "E301",
                "the folder has no weights that PyTorch reads",
                cause=f"there is {found[0]}, {words}, but neither {_SAFETENSORS} nor {_CHECKPOINT}",
                remedy=_SAVE_AGAIN,
                at=AT_WEIGHTS,
            )
    names = sorted(file.name for file in path.iterdir())
    raise StepError(
        "E301",
        "the folder has no weights",
        cause=f"{path.name} has neither {_SAFETENSORS} nor {_CHECKPOINT}; it holds {shown(names)}",
        remedy="copy the whole folder",
        at=AT_WEIGHTS,
    )


def _found(path: Path, patterns: tuple[str, ...]) -> list[str]:
    return sorted(
        {file.name for pattern in patterns for file in path.glob(pattern) if file.name != "training_args.bin"}
    )


def _parts(path: Path, index: str) -> tuple[Path, ...]:
    places = json_object(path / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise StepError(
            "E302",
            f"{index} is not what the Transformers library writes",
            cause="its `weight_map` does not say which file holds each tensor",
            remedy="copy or save it again",
            at=AT_WEIGHTS,
        )
    names = sorted(set(places.values()))
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise _elsewhere(f"{index} names {name}", "put every file into the folder, and name it there")
        if not name.endswith((".safetensors", ".bin")):
            raise StepError(
                "E301",
                "the folder has no weights under the names that the Transformers library writes",
                cause=f"{index} names {name}, which is neither a .safetensors nor a .bin file",
                remedy=_SAVE_AGAIN,
                at=AT_WEIGHTS,
            )
    if missing := [name for name in names if not (path / name).is_file()]:
        raise StepError(
            "E301",
            f"{len(missing)} of the {len(names)} files that hold the weights do not exist",
            cause=f"{index} names {shown(missing)}",
            remedy="copy the whole folder",
            at=AT_WEIGHTS,
        )
    return tuple(path / name for name in names)
