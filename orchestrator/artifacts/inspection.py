"""The document that `inspect` leaves: what a model's file says of its tensors, read without running the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.artifacts.document import Document

__all__ = ["FoundTensor", "FoundWeights", "Inspection"]


@dataclass(frozen=True, slots=True)
class FoundTensor:
    """An input or output as the model file says it.

    Attributes:
        tensor: the model's own name of it, whatever characters it has.
        dtype: as in the spec (`float32`, ..., `string`), what the framework calls one that mlo does not know, or the empty
            text where the file does not say it.
        shape: for each dimension a size, the model's own name of it, or None where it is open and has no name; None as a
            whole where the rank is open too.
    """

    tensor: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """What a file of weights alone says.

    Attributes:
        weights_key: where in the file the state dict lies; None where it is the whole file.
        tensors: names and shapes of some matrices.
        more: how many other matrices there are.
    """

    weights_key: str | None
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    more: int


class Inspection(Document):
    """What the step `inspect` finds.

    Attributes:
        inputs, outputs: in the model's order.
        ranges: the model's own name of a dimension → the smallest and largest size that it takes, where the file says so.
        files: further files that the model is made of, relative to the folder of the model's file.
        notes: what a person should know of it, a sentence each.
        weights: of a file that holds weights and no model; None for all others.
    """

    NAME: ClassVar[str] = "inspection"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "inspection.json"

    inputs: tuple[FoundTensor, ...]
    outputs: tuple[FoundTensor, ...]
    ranges: Mapping[str, tuple[int, int]]
    files: tuple[str, ...]
    notes: tuple[str, ...]
    weights: FoundWeights | None
