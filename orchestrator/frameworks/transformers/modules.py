"""Reads a Transformers folder's JSON files, and the sentence-transformers modules that they describe."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.pytorch.weights import shown
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "ACTIVATIONS",
    "MODULES",
    "POOLING_MODES",
    "Dense",
    "SentenceModules",
    "json_list",
    "json_object",
    "optional_object",
    "sentence_modules",
]


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StepError: E302, it does not contain one.
    """
    document = _read(path)
    if not isinstance(document, dict):
        raise _damaged(path, f"it holds a {type(document).__name__}, but an object is expected")
    return document


def optional_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no file.

    Raises:
        StepError: E302, it does not contain one.
    """
    return json_object(path) if path.is_file() else {}


def json_list(path: Path) -> list[dict[str, Any]]:
    """The list of objects in a JSON file.

    Raises:
        StepError: E302, it does not contain one.
    """
    document = _read(path)
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise _damaged(path, f"it holds a {type(document).__name__}, but a list of objects is expected")
    return document


def _read(path: Path) -> Any:
    with refuse_as((ValueError, RecursionError), lambda error: _damaged(path, headline(error))):
        return json.loads(path.read_text(encoding="utf-8"))


def _damaged(path: Path, cause: str) -> StepError:
    return StepError(
        "E302", f"{path.name} cannot be read", cause=cause, remedy="copy or save the folder again", at=AT_WEIGHTS
    )


MODULES = "modules.json"

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""The library's pooling modes, in the order in which it concatenates their results."""

ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
"""Classes of torch.nn."""

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TYPE = re.compile(r"sentence_transformers\.(?:\w+\.)+(?P<name>\w+)")
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
_EMBEDDING = "sentence_embedding"
_HIDDEN = "last_hidden_state"
_TEXT_SETTINGS = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json")


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer on the embedding.

    Attributes:
        folder: with `model.safetensors` or `pytorch_model.bin`, which contains `linear.weight` and optionally `linear.bias`.
        activation: one of `ACTIVATIONS`.
    """

    folder: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """The modules that compute the embedding from the model's hidden states.

    Attributes:
        model: the folder of the model, relative to the whole.
        pooling: some of `POOLING_MODES`, whose results are concatenated.
        after: the modules after pooling, in order; `normalize` stands for normalization.
        longest: the number of tokens to which texts are truncated; None if it is not stated.
        lowers: whether texts are lowercased before they are tokenized.
    """

    model: PurePosixPath
    pooling: tuple[str, ...]
    after: tuple[Dense | str, ...] = ()
    longest: int | None = None
    lowers: bool = False


def sentence_modules(root: Path) -> SentenceModules | None:
    """The modules in `modules.json`; None if it only has the model, as for a cross-encoder.

    Args:
        root: the folder with the file.

    Raises:
        StepError: E302 it is damaged, E303 a custom class, E354 a path outside the folder, E374 an unsupported module or
            setting.
    """
    entries = _entries(root)
    kinds = [kind for kind, _ in entries]
    if kinds == ["Transformer"]:
        return None
    if kinds[:2] != ["Transformer", "Pooling"] or any(kind in {"Transformer", "Pooling"} for kind in kinds[2:]):
        raise _unknown(
            f"its modules are {', '.join(kinds)}",
            "a model, one pooling, and then dense layers and normalization can be served; `task:` with another task "
            "serves the model alone",
        )
    (_, model), (_, pooling), *rest = entries
    settings = _text_settings(root / model)
    after: list[Dense | str] = []
    for kind, place in rest:
        config = optional_object(root / place / "config.json")
        if config.get("module_input_name", _EMBEDDING) != _EMBEDDING:
            raise _unknown(f"{place} works on `{config['module_input_name']}`", "only the embedding can be served")
        after.append("normalize" if kind == "Normalize" else _dense(root / place, config))
    longest = settings.get("max_seq_length")
    return SentenceModules(
        model=model,
        pooling=_pooling(optional_object(root / pooling / "config.json")),
        after=tuple(after),
        longest=longest if isinstance(longest, int) and longest > 0 else None,
        lowers=bool(settings.get("do_lower_case")),
    )


def _entries(root: Path) -> list[tuple[str, PurePosixPath]]:
    """Kind and relative folder of every module, in order."""
    entries = [
        (str(entry.get("type", "")), PurePosixPath(str(entry.get("path", "")))) for entry in json_list(root / MODULES)
    ]
    for _, place in entries:
        if place.is_absolute() or ".." in place.parts:
            raise StepError(
                "E354",
                "the model reaches outside its folder",
                cause=f"{MODULES} names {place}",
                remedy="put every module into the folder, and name it there",
                at=AT_WEIGHTS,
            )
    return [(_kind(name), place) for name, place in entries]


def _kind(name: str) -> str:
    match = _TYPE.fullmatch(name)
    if match is None:
        raise StepError(
            "E303",
            "the model has a module that runs code of its own",
            cause=f"{MODULES} names the class `{name}`, which is not the sentence-transformers library's",
            remedy="give the model without that module, or export the whole to ONNX where you trust its code",
            at=AT_WEIGHTS,
        )
    if match["name"] not in _KNOWN:
        raise _unknown(f"{MODULES} names `{name}`", f"modules that can be served are {', '.join(_KNOWN)}")
    return match["name"]


def _unknown(cause: str, remedy: str) -> StepError:
    return StepError(
        "E374",
        "the sentence-transformer does something that mlo does not support",
        cause=cause,
        remedy=remedy,
        at=AT_WEIGHTS,
    )


def _text_settings(folder: Path) -> Mapping[str, Any]:
    """The settings for texts, from a file whose name depends on the library's version and the model."""
    settings = next((json_object(folder / name) for name in _TEXT_SETTINGS if (folder / name).is_file()), {})
    ways = settings.get("modality_config") or {"text": {}}
    if set(ways) != {"text"} or ways["text"].get("method_output_name", _HIDDEN) != _HIDDEN:
        raise _unknown("it embeds more than texts, or not by the last hidden state", "give a model that embeds texts")
    return settings


def _pooling(config: Mapping[str, Any]) -> tuple[str, ...]:
    if config.get("include_prompt", True) is False:
        raise _unknown(
            "its pooling leaves the prompt's tokens out (`include_prompt: false`)",
            "a request does not say where a prompt ends; set it to true if no prompts are used",
        )
    modes = config.get("pooling_mode") or tuple(mode for key, mode in _OLD_MODES.items() if config.get(key)) or "mean"
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if strange := [str(mode) for mode in modes if mode not in POOLING_MODES]:
        raise _unknown(f"it pools by {shown(strange)}", f"pooling that can be served is {', '.join(POOLING_MODES)}")
    return modes


def _dense(folder: Path, config: Mapping[str, Any]) -> Dense:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = activation.rpartition(".")[2]
    if name not in ACTIVATIONS or not activation.startswith("torch.nn."):
        raise _unknown(
            f"{folder.name} uses the activation {activation}", f"those that can be served are {', '.join(ACTIVATIONS)}"
        )
    if config.get("use_residual"):
        raise _unknown(f"{folder.name} adds its input to its output (`use_residual`)", "give a model without it")
    sizes = config.get("in_features"), config.get("out_features")
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise _unknown(f"{folder.name}/config.json does not say its sizes", "copy or save it again")
    return Dense(folder, int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)), name)
