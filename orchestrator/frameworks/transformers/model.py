"""Builds a Transformers model from its configuration, and loads the tensors of its folder into it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import torch

from orchestrator.frameworks.pytorch.weights import shown
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.transformers.folder import part_tensors, read_tensors
from orchestrator.frameworks.transformers.library import configuration_auto, modeling_auto, transformers
from orchestrator.frameworks.transformers.modules import Dense, SentenceModules
from orchestrator.frameworks.transformers.task import SentenceHead
from orchestrator.steps.context import StepError, refuse_as, refuse_on
from orchestrator.steps.reasons import headline, headline_with_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.transformers.folder import ModelFolder

__all__ = ["Architecture", "Attention", "architecture", "filled", "sentence_head", "skeleton"]

Attention = Literal["fused", "plain"]
"""The implementation of attention: PyTorch's fused operator, or matrix products and softmax, which ONNX has."""

_AT_TASK = ("model", "source", "task")
_FEATURES, _SENTENCE = "feature-extraction", "sentence-embedding"
_ENCODERS = "MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES"
_CLASSES = {
    _FEATURES: "MODEL_MAPPING_NAMES",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "fill-mask": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "question-answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
"""Task → the library's table of classes by type of model."""

_OURS = {"use_cache": False, "output_attentions": False, "output_hidden_states": False, "return_dict": True}
_NOT_ASKED = ("_attn_implementation", "attn_implementation", "fusion_config", "distributed_config", "kernel_config")
"""Settings that select implementations, which are left to mlo."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The model to build.

    Attributes:
        cls: the class of the Transformers library.
        config: its configuration.
        task: one of the spec's tasks, never `auto`.
        modules: those that compute the embedding, for sentence embeddings.
        notes: what the user should know about the choice.
    """

    cls: Any
    config: Any
    task: str
    modules: SentenceModules | None
    notes: tuple[str, ...] = ()


def architecture(folder: ModelFolder, task: str) -> Architecture:
    """The class and the configuration for a task.

    Raises:
        StepError: E370 this version of the library cannot build it, E371 the task does not fit the model.
    """
    kind = folder.config.get("model_type")
    names = [name for name in folder.config.get("architectures") or [] if isinstance(name, str)]
    if not isinstance(kind, str) or kind not in configuration_auto.CONFIG_MAPPING_NAMES:
        raise _unknown_type(kind, names)
    chosen = _task(folder, names) if task == "auto" else task
    config = _config(folder, kind)
    name = _class_name(kind, names, chosen, encoder=getattr(config, "is_encoder_decoder", False))
    modules = folder.modules
    notes: tuple[str, ...] = ()
    if chosen != _SENTENCE:
        modules = None
    elif modules is None:
        modules = SentenceModules(PurePosixPath(), ("mean",))
        notes = ("source: there is no modules.json, so sentences are embedded by the mean of their tokens",)
    # Classes are imported on demand, with the packages that they need.
    with refuse_as(Exception, lambda error: _not_built(name, error)):
        cls = getattr(transformers, name)
    return Architecture(cls, config, chosen, modules, notes)


def skeleton(built: Architecture) -> torch.nn.Module:
    """The model without weights, which takes neither time nor memory.

    Raises:
        StepError: E370, it cannot be built.
    """
    # The library's classes may raise anything, depending on their configuration.
    with refuse_as(Exception, lambda error: _not_built(built.cls.__name__, error)), torch.device("meta"):
        model: torch.nn.Module = built.cls(built.config, **_options(built))
    return model


def filled(folder: ModelFolder, built: Architecture, attention: Attention) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """The model with its weights, on the CPU, in float32 and evaluation mode; and notes on them.

    Raises:
        StepError: E302 a damaged file, E370 the model cannot be built, E372 weights are missing or have another shape.
    """
    tensors = read_tensors(folder)
    fused = attention == "fused" and getattr(built.cls, "_supports_sdpa", False)
    # As in `skeleton`, and exceptions from the conversion of old names of weights.
    with refuse_as(Exception, lambda error: _not_built(built.cls.__name__, error)):
        model, info = built.cls.from_pretrained(
            None,
            config=built.config,
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # all of them are reported below
            dtype=torch.float32,
            attn_implementation="sdpa" if fused else "eager",
            **_options(built),
        )
    _refuse_gaps(info, built)
    notes = [*built.notes]
    left_out = {"pooler"} if _options(built) else set()
    if unused := sorted(name for name in info["unexpected_keys"] if not left_out & set(name.split("."))):
        notes.append(f"source: {len(unused)} stored tensors are not part of {built.cls.__name__}: {shown(unused)}")
    stored = {tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point}
    notes += [
        f"source: weights are stored as {str(dtype).removeprefix('torch.')} and computed in float32"
        for dtype in sorted(stored, key=str)
        if dtype != torch.float32
    ]
    return model, tuple(notes)


def sentence_head(modules: SentenceModules) -> SentenceHead:
    """Pooling and the modules after it, with the weights of the dense layers.

    Raises:
        StepError: E302 a damaged file, E372 missing weights.
    """
    weights = []
    for dense in (each for each in modules.after if isinstance(each, Dense)):
        file, tensors = part_tensors(dense.folder)
        shapes = {"linear.weight": (dense.outputs, dense.inputs)} | (
            {"linear.bias": (dense.outputs,)} if dense.bias else {}
        )
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise StepError(
                "E372",
                f"the dense layer {dense.folder.name} does not have the weights that its configuration states",
                cause=f"expected are {shapes} in {dense.folder.name}/{file}",
                remedy="save the sentence-transformer again",
                at=AT_WEIGHTS,
            )
        weights.append({name: tensor.float() for name, tensor in tensors.items()})
    return SentenceHead(modules, weights)


def _task(folder: ModelFolder, names: list[str]) -> str:
    if folder.modules is not None:
        return _SENTENCE
    for task, table in _CLASSES.items():
        if any(name in _names_in(table) for name in names):
            return task
    if any(name in _names_in(_ENCODERS) for name in names):
        return _FEATURES
    raise StepError(
        "E371",
        "the model does not state its task, or mlo does not serve that task",
        cause=f"config.json has `architectures: {names}`",
        remedy=f"name the task that its weights are for: `task:` {shown([_SENTENCE, *_CLASSES])}",
        at=AT_WEIGHTS,
    )


def _names_in(table: str) -> set[str]:
    names: set[str] = set()
    for value in getattr(modeling_auto, table).values():
        names.update([value] if isinstance(value, str) else value)
    return names


def _class_name(kind: str, names: list[str], task: str, *, encoder: bool) -> str:
    hidden_states = task in {_FEATURES, _SENTENCE}
    table = getattr(modeling_auto, _CLASSES[_FEATURES if hidden_states else task])
    encoders = getattr(modeling_auto, _ENCODERS)
    if hidden_states and (encoder or encoders.get(kind) in names):
        table = encoders
    found = table.get(kind)
    if found is None:
        refused = {_FEATURES, _SENTENCE} if hidden_states else {task}
        tasks = [
            other for other, table in _CLASSES.items() if kind in getattr(modeling_auto, table) and other not in refused
        ]
        raise StepError(
            "E371",
            f"models of the type {kind} do not support the task {task}",
            cause="it is an encoder-decoder, which generates token by token"
            if hidden_states and encoder
            else f"transformers {transformers.__version__} has no class for it",
            remedy=f"tasks of this type: {shown(tasks)}"
            if tasks
            else "mlo serves no task of this type; export the model to ONNX",
            at=_AT_TASK,
        )
    choices = [found] if isinstance(found, str) else list(found)
    return next((name for name in names if name in choices), choices[0])


def _config(folder: ModelFolder, kind: str) -> Any:
    asked = {key: value for key, value in folder.config.items() if key not in _NOT_ASKED}
    # The library's classes check their arguments, each with its own exceptions.
    with refuse_on(
        Exception,
        "E370",
        f"config.json does not describe a valid {kind} model",
        cause=headline_with_type,
        remedy="copy or save the folder again, with a version of the library that is no newer than "
        f"{transformers.__version__}",
        at=AT_WEIGHTS,
    ):
        cls = configuration_auto.CONFIG_MAPPING[kind]
        return cls.from_dict(asked | _OURS)


def _options(built: Architecture) -> dict[str, Any]:
    """Leave out the model's own pooling layer if the output does not need it, because it may have no weights."""
    takes = "add_pooling_layer" in inspect.signature(built.cls.__init__).parameters
    return {"add_pooling_layer": False} if takes and built.task in {_FEATURES, _SENTENCE} else {}


def _refuse_gaps(info: Mapping[str, Any], built: Architecture) -> None:
    gaps = [f"{name}: missing" for name in sorted(info["missing_keys"])]
    gaps += [
        f"{name}: {list(stored)} stored, {list(wanted)} in the model"
        for name, stored, wanted in sorted(info["mismatched_keys"])
    ]
    gaps += [headline(ValueError(message)) for message in info["error_msgs"]]
    if not gaps:
        return
    head = all(name.partition(".")[0] not in {"model", built.cls.base_model_prefix} for name in info["missing_keys"])
    raise StepError(
        "E372",
        f"the weights do not fill the model: {len(gaps)} of its tensors would be random",
        cause=f"{built.cls.__name__} with this config.json: {shown(gaps, '; ')}",
        remedy=f"were they trained for the task {built.task}? Name the `task:` that they are for"
        if head and info["missing_keys"]
        else "copy the whole folder: config.json and the weights must belong together",
        at=AT_WEIGHTS,
    )


def _unknown_type(kind: Any, names: list[str]) -> StepError:
    version = transformers.__version__
    return StepError(
        "E370",
        f"transformers {version} does not know models of the type {kind}"
        if kind
        else "config.json does not say what type of model it is",
        cause=f"its architecture is {shown(names)}" if names else "config.json has no `model_type`",
        remedy="install a version of transformers that knows it, or export the model to ONNX"
        if kind
        else "save the model again with model.save_pretrained(folder), which writes `model_type`",
        at=AT_WEIGHTS,
    )


def _not_built(name: str, error: Exception) -> StepError:
    return StepError(
        "E370",
        f"transformers {transformers.__version__} does not build this {name}",
        cause=headline_with_type(error),
        remedy="install what it names"
        if isinstance(error, ImportError)
        else "load it with the Transformers library where you trust it, and save it again",
        at=AT_WEIGHTS,
    )
