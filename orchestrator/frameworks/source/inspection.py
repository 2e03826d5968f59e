"""What reading a model file, without running it, tells: its tensors, and the files beside it that belong to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE", "Found", "FoundTensor", "write_found"]

FILE = "found.json"
"""What the step `inspect` leaves; `orchestrator/plan/found.py` reads it."""


@dataclass(frozen=True, slots=True)
class FoundTensor:
    """An input or output as the model file says it.

    Attributes:
        tensor: the model's own name of it, whatever characters it has.
        dtype: as in the spec (`float32`, ..., `string`), or what the framework calls one that mlo does not know.
        shape: for each dimension a size, the model's own name of it, or None where it is open and has no name; None as a
            whole where the rank is open too.
    """

    tensor: str
    dtype: str
    shape: Sequence[int | str | None] | None


@dataclass(frozen=True, slots=True)
class Found:
    """What the step `inspect` finds.

    Attributes:
        inputs, outputs: in the model's order.
        ranges: the model's own name of a dimension → the smallest and largest size that it takes, where the file says so.
        files: further files that the model is made of, relative to the folder of the model's file.
        notes: what a person should know of it, a sentence each.
    """

    inputs: Sequence[FoundTensor]
    outputs: Sequence[FoundTensor]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    files: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_found(folder: Path, found: Found) -> None:
    """Write `found.json`, the same bytes each time."""
    text = json.dumps(asdict(found), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")
