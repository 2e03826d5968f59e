"""The document of `inspect`: the tensors of a model file, read without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.artifacts.document import Document

__all__ = ["FoundNote", "FoundTensor", "FoundWeights", "Inspection"]


@dataclass(frozen=True, slots=True)
class FoundTensor:
    """An input or output according to the model file.

    Attributes:
        tensor: its name in the model, with any characters.
        dtype: as in the spec (`float32`, ..., `string`), the framework's name of a dtype that mlo does not know, or empty if
            the file does not have it.
        shape: for each dimension its size, its name in the model, or None if it is dynamic and has no name; None instead of
            a tuple if the rank is dynamic too.
    """

    tensor: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """The content of a file that only has weights.

    Attributes:
        weights_key: the key of the state dict in the file; None if it is the whole file.
        tensors: names and shapes of some matrices.
        more: number of other matrices.
    """

    weights_key: str | None
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    more: int


@dataclass(frozen=True, slots=True)
class FoundNote:
    """What the user should know about the model.

    Attributes:
        text: a sentence without a full stop.
        tensor: the tensor that it is about, by its name in the model; None if it is about the whole model.
    """

    text: str
    tensor: str | None = None


class Inspection(Document):
    """The result of the step `inspect`.

    Attributes:
        inputs, outputs: in the model's order.
        ranges: the model's name of a dimension → its smallest and largest size, if the file has them.
        multiples: the model's name of a dimension → the number that its sizes are multiples of, if the file says so.
        files: further files of the model, relative to the folder of the model file.
        notes: what the user should know about it.
        weights: for a file that has weights but no model; None for all others.
    """

    NAME: ClassVar[str] = "inspection"
    VERSION: ClassVar[int] = 3
    FILE: ClassVar[str] = "inspection.json"

    inputs: tuple[FoundTensor, ...]
    outputs: tuple[FoundTensor, ...]
    ranges: Mapping[str, tuple[int, int]]
    multiples: Mapping[str, int]
    files: tuple[str, ...]
    notes: tuple[FoundNote, ...]
    weights: FoundWeights | None
