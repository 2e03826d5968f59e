"""Names a model's open dimensions as a spec does, which gives the shapes of its inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.artifacts.inspection import FoundTensor
from orchestrator.spec.signature import Dim

__all__ = ["DEFAULT_BATCH", "UNNAMED_BATCH", "DimNames", "batch_of", "dim_name"]

DEFAULT_BATCH = (1, 64)
"""The range of the batch dimension where neither the spec nor the model gives one."""

UNNAMED_BATCH = "batch"
"""The batch dimension where the model has no name for it."""

_DIM_NAME = re.compile(r"[a-z_][a-z0-9_]{0,31}")


def dim_name(own: str) -> str:
    """A name that a spec can hold for a dimension that the model calls `own`."""
    name = re.sub(r"[^a-z0-9_]+", "_", own.lower()).strip("_")[:32]
    return name if _DIM_NAME.fullmatch(name) else f"_{name}"[:32]


def batch_of(inputs: Sequence[FoundTensor]) -> str | None:
    """The first dimension of all inputs, if it is the same and open in each of them; else None.

    Args:
        inputs: as the step `inspect` found them.
    """
    firsts = {(each.shape or (0,))[0] for each in inputs}
    if not firsts or any(isinstance(first, int) for first in firsts):
        return None
    named = [first for first in firsts if isinstance(first, str)]
    return dim_name(named[0]) if len(named) == 1 else UNNAMED_BATCH


def _apart(name: str, taken: set[str]) -> str:
    number = 2
    while (numbered := f"{name[:28]}_{number}") in taken:
        number += 1
    return numbered


class DimNames:
    """Maps the model's own names of its inputs' dimensions to names that a spec can hold, all different.

    Args:
        inputs: as the step `inspect` found them.
        batch: the batch dimension.

    Attributes:
        alike: pairs of own names that would get the same name, the first empty for a batch dimension without one; the second
            gets a number at the end of its name.
    """

    def __init__(self, inputs: Sequence[FoundTensor], batch: str | None) -> None:
        self._batch = batch
        self._names: dict[str, str] = {}
        self.alike: list[tuple[str, str]] = []
        shapes = [each.shape for each in inputs if each.shape]
        owns = list(dict.fromkeys(size for shape in shapes for size in shape if isinstance(size, str)))
        first_of: dict[str, str] = {}
        if batch is not None and batch not in {dim_name(shape[0]) for shape in shapes if isinstance(shape[0], str)}:
            first_of[batch] = ""  # it has this name of mlo
        for own in owns:
            name = dim_name(own)
            if (other := first_of.setdefault(name, own)) != own:
                self.alike.append((other, own))
                name = _apart(name, {*map(dim_name, owns), *self._names.values()})
            self._names[own] = name

    def of(self, own: str) -> str:
        """The spec's name of the dimension that the model calls `own`."""
        return self._names.get(own) or dim_name(own)

    def input_shape(self, own: FoundTensor, name: str) -> tuple[Dim, ...] | None:
        """The shape of the input that the spec calls `name`; None where the model does not give it."""
        if own.shape is None:
            return None
        return tuple(
            self._batch if axis == 0 and self._batch is not None else self._size(size, f"{name}_{axis}")
            for axis, size in enumerate(own.shape)
        )

    def output_shape(self, own: FoundTensor, known: set[Dim]) -> tuple[Dim, ...] | None:
        """The shape of an output; None where it has a dimension that no input has: that is found by running the model.

        Args:
            own: as the step `inspect` found it.
            known: the dimensions of the inputs.
        """
        if own.shape is None:
            return None
        shape: list[Dim] = []
        for axis, size in enumerate(own.shape):
            dim = self._batch if size is None and axis == 0 else None if size is None else self._size(size, "")
            if dim is None or (isinstance(dim, str) and dim not in known):
                return None
            shape.append(dim)
        return tuple(shape)

    def _size(self, size: int | str | None, unnamed: str) -> Dim:
        if size is None:
            return dim_name(unnamed)
        return self.of(size) if isinstance(size, str) else size
