"""Derives the inputs and outputs of a Transformers model for a task from its configuration."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import nn

from orchestrator.artifacts.inspection import FoundNote, FoundTensor, Inspection
from orchestrator.frameworks.pytorch.weights import shown
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.transformers.modules import Dense
from orchestrator.frameworks.transformers.task import EMBEDDING, MASK
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.frameworks.transformers.folder import ModelFolder
    from orchestrator.frameworks.transformers.model import Architecture

__all__ = ["IDS", "TYPES", "interface", "outputs", "takes_by_name"]

IDS, TYPES, PIXELS = "input_ids", "token_type_ids", "pixel_values"
BATCH, SEQUENCE = "batch", "sequence"

LONGEST_UNASKED = 512
"""The default maximum of tokens. Time and memory of attention grow with its square, so longer ranges must be declared."""

_USUAL_SIDE = 224  # pixels
_NO_LIMIT = 10**6  # the library writes 10**30 if a tokenizer has no limit


def interface(folder: ModelFolder, built: Architecture, model: nn.Module, tokenizer: Any) -> Inspection:
    """Inputs, outputs and ranges.

    Args:
        folder: of the model.
        built: the model's class and task.
        model: its modules; their values do not matter.
        tokenizer: of the folder; None if there is none.

    Raises:
        StepError: E375, it takes neither text nor images, or both.
    """
    takes = takes_by_name(built)
    notes = [f"the task is {built.task}", *built.notes]
    if PIXELS in takes:
        pixels = _pixels(folder.image, built.config, notes)
        return _inspection((pixels,), built, {}, notes)
    names = [name for name in takes if name != TYPES or _has_types(built, tokenizer)]
    longest = _longest(folder, built, model)
    if longest is None or longest > LONGEST_UNASKED:
        limit = "any number of" if longest is None else f"up to {longest}"
        notes.append(
            f"the model takes {limit} tokens; `{SEQUENCE}` ends at {LONGEST_UNASKED} unless `dims` says otherwise"
        )
    if folder.modules is not None and folder.modules.lowers:
        notes.append("texts are lowercased before they are tokenized: clients have to do so as well")
    inputs = tuple(FoundTensor(name, "int64", (BATCH, SEQUENCE)) for name in names)
    return _inspection(inputs, built, {SEQUENCE: (1, min(longest or LONGEST_UNASKED, LONGEST_UNASKED))}, notes)


def _inspection(
    inputs: tuple[FoundTensor, ...], built: Architecture, ranges: Mapping[str, tuple[int, int]], notes: Sequence[str]
) -> Inspection:
    returned = tuple(outputs(built))
    return Inspection(
        inputs=inputs,
        outputs=returned,
        ranges=ranges,
        multiples={},
        files=(),
        notes=tuple(map(FoundNote, notes)),
        weights=None,
    )


def takes_by_name(built: Architecture) -> list[str]:
    """The inputs that a spec may declare, by the model's own names; the first is required.

    Raises:
        StepError: E375, it takes neither text nor images, or both.
    """
    takes = [name for name in inspect.signature(built.cls.forward).parameters if name not in {"self", "kwargs"}]
    if (IDS in takes) == (PIXELS in takes):
        raise StepError(
            "E375",
            "the model takes inputs that mlo cannot derive from its configuration",
            cause=f"{built.cls.__name__} takes {shown(takes)}",
            remedy="folders with models of text (input_ids) or images (pixel_values) can be served; export others to ONNX",
            at=AT_WEIGHTS,
        )
    return [PIXELS] if PIXELS in takes else [name for name in (IDS, MASK, TYPES) if name in takes]


def _has_types(built: Architecture, tokenizer: Any) -> bool:
    """Whether the model distinguishes two segments of a text: it has embeddings for them, and the tokenizer sets them."""
    kinds = getattr(built.config, "type_vocab_size", None)
    if tokenizer is None:
        return kinds is not None and kinds > 1
    return (kinds is None or kinds > 1) and TYPES in tokenizer.model_input_names


def _longest(folder: ModelFolder, built: Architecture, model: nn.Module) -> int | None:
    """The maximum number of tokens, from the model's positions or its tokenizer's truncation; None if neither is stated."""
    limits = [getattr(built.config, "max_position_embeddings", None), folder.tokenizer.get("model_max_length")]
    limits += [folder.modules.longest if folder.modules is not None else None]
    for name, module in model.named_modules():
        # Models like RoBERTa count positions from the one after the padding's.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    return min(known, default=None)


def _pixels(image: Mapping[str, Any], config: Any, notes: list[str]) -> FoundTensor:
    size = getattr(config, "image_size", None) or image.get("crop_size") or image.get("size")
    height, width = _sides(size)
    if height is None or width is None:
        height = width = _USUAL_SIDE
        notes.append(f"the folder does not state the size of its images; {height} x {width} pixels are assumed")
    return FoundTensor(PIXELS, "float32", (BATCH, int(getattr(config, "num_channels", 3)), height, width))


def _sides(size: Any) -> tuple[int | None, int | None]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        return size.get("height", edge), size.get("width", edge)
    return None, None


def outputs(built: Architecture) -> list[FoundTensor]:
    """The outputs of the model for its task."""
    config = built.config
    width = getattr(config, "hidden_size", None)
    labels = int(getattr(config, "num_labels", 0)) or None
    if built.task == "question-answering":
        return [FoundTensor(name, "float32", (BATCH, SEQUENCE)) for name in ("start_logits", "end_logits")]
    if built.task == "sentence-embedding":
        return [FoundTensor(EMBEDDING, "float32", (BATCH, _embedding_width(built, width)))]
    shapes: dict[str, tuple[int | str | None, ...] | None] = {
        "text-classification": (BATCH, labels),
        "image-classification": (BATCH, labels),
        "token-classification": (BATCH, SEQUENCE, labels),
        "fill-mask": (BATCH, SEQUENCE, getattr(config, "vocab_size", None)),
    }
    if built.task in shapes:
        return [FoundTensor("logits", "float32", shapes[built.task])]
    # The number of an image's patches depends on the architecture.
    return [
        FoundTensor("last_hidden_state", "float32", (BATCH, SEQUENCE, width) if IDS in takes_by_name(built) else None)
    ]


def _embedding_width(built: Architecture, width: int | None) -> int | None:
    assert built.modules is not None, "sentence embeddings have them"
    dense = [each.outputs for each in built.modules.after if isinstance(each, Dense)]
    if dense:
        return dense[-1]
    return None if width is None else width * len(built.modules.pooling)
