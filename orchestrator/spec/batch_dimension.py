"""Which dimension counts the rows of a request, so that requests can be put together; or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.spec.models import ModelDeployment

__all__ = ["NO_BATCH", "Batch", "chosen_batch", "declared_batch"]

NO_BATCH = "none"
"""The value of `model.batch` for a model whose requests have no rows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Which dimension counts the rows of a request.

    Attributes:
        name: the batch dimension, which is the first of every input; None if requests cannot be put together.
        inner: the dimension that the spec names, if it is not the first of every input.
        unknown: the dimension that the spec names, if no input has it.
        why_not: why there is no `name`, a clause; otherwise empty.
    """

    name: str | None
    inner: str | None = None
    unknown: str | None = None
    why_not: str = ""

    def one_by_one(self, dims: Mapping[str, tuple[int, int]]) -> str:
        """Why requests are answered one by one, a clause; empty if they can be batched.

        Args:
            dims: the range of every dimension.
        """
        if self.name is None:
            return self.why_not
        low, high = dims[self.name]
        return "" if 2 * low <= high else f"`{self.name}` is at most {high}, which has no room for two requests"


def chosen_batch(inputs: Iterable[tuple[str, Sequence[int | str] | None]], wanted: str | None) -> Batch:
    """The batch dimension.

    Args:
        inputs: the name and the shape of each input.
        wanted: `model.batch`: a dimension of an input, `none`, or None for the default.
    """
    if wanted == NO_BATCH:
        return Batch(None, why_not="the spec says `batch: none`")
    shapes = {name: tuple(shape or ()) for name, shape in inputs}
    if wanted is not None:
        if not any(wanted in shape for shape in shapes.values()):
            return Batch(None, unknown=wanted, why_not=f"no input has the dimension `{wanted}`")
        other = next((name for name, shape in shapes.items() if shape[:1] != (wanted,)), None)
        if other is None:
            return Batch(wanted)
        return Batch(None, inner=wanted, why_not=f"`{wanted}` is not the first dimension of the input `{other}`")
    firsts = {shape[0] if shape else None for shape in shapes.values()}
    first = firsts.pop() if len(firsts) == 1 else None
    if isinstance(first, str):
        return Batch(first)
    return Batch(None, why_not="no named dimension is the first one of every input")


def declared_batch(spec: ModelDeployment) -> Batch:
    """The batch dimension of a spec that declares its inputs."""
    return chosen_batch(((tensor.name, tensor.shape) for tensor in spec.model.inputs), spec.model.batch)
