"""Finds out for `mlo init` which dimension counts the rows of requests: the one along which a model computes each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.artifacts.probed import ProbedDim
from orchestrator.frameworks.source.comparison import close, compared_sizes, row_mixing_output, turned
from orchestrator.frameworks.source.edge_cases import call_at
from orchestrator.frameworks.source.samples import random_samples
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature

__all__ = ["FoundRows", "found_rows"]


@dataclass(frozen=True, slots=True)
class FoundRows:
    """Which dimension counts rows.

    Attributes:
        dims: all dimensions; the batch is 1 if each request has to be a call of its own.
        batch: the batch dimension; None if there is none.
        why: why it is not the proposed one, a clause; empty if it is.
    """

    dims: Mapping[str, ProbedDim]
    batch: str | None
    why: str = ""


def found_rows(signature: Signature, dims: Mapping[str, ProbedDim], answer: Answer) -> FoundRows:
    """Which dimension counts rows, if those along the proposed batch dimension depend on each other.

    A batch has no order: where the rows of a mixed batch change places, their answers do, and no more. So it is told from the
    steps of a sequence, which are no batch at all.

    Args:
        signature: with the sizes and values that the model takes.
        dims: what was found of its dimensions.
        answer: calls the model.
    """
    batch = signature.batch
    if batch is None or signature.dims[batch][1] == 1 or signature.dims[batch][0] > 1:
        return FoundRows(dims, batch)
    try:
        mixing = row_mixing_output(answer, signature, random_samples(signature, 0), [])
        if mixing is None:
            return FoundRows(dims, batch)
        if _without_order(answer, signature):
            reason = f"a row's `{mixing.output}` depends on the other rows of a batch"
            return FoundRows({**dims, batch: ProbedDim(1, 1, 1, reason)}, batch)
        why = f"the order along the first dimension counts for `{mixing.output}`, as in a sequence"
        other = next((name for name in signature.dims if name != batch and _independent(name, signature, answer)), None)
    except StepError:
        return FoundRows(dims, batch)  # the import step says so
    return FoundRows(dims, other, why if other is None else f"{why}; along `{other}`, each is computed by itself")


def _without_order(answer: Answer, signature: Signature) -> bool:
    """Whether the answers to rows in the reverse order are the same in the reverse order."""
    samples = random_samples(signature, 0)
    inputs = call_at(samples, signature, compared_sizes(samples, signature))
    forwards, backwards = answer(inputs), turned(answer)(inputs)
    return all(close(array, backwards[name]) for name, array in forwards.items())


def _independent(name: str, signature: Signature, answer: Answer) -> bool:
    """Whether the model computes each entry along a dimension that all inputs share by itself."""
    axes = {t.name: (t.shape or ()).index(name) for t in signature.inputs if name in (t.shape or ())}
    if len(axes) < len(signature.inputs) or signature.dims[name][0] > 1 or signature.dims[name][1] < 2:
        return False
    as_rows = replace(
        signature,
        inputs=tuple(
            replace(t, shape=(name, *(size for axis, size in enumerate(t.shape or ()) if axis != axes[t.name])))
            for t in signature.inputs
        ),
        batch=name,
    )
    samples = random_samples(as_rows, 0)

    def back(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {key: np.ascontiguousarray(np.moveaxis(array, 0, axes[key])) for key, array in inputs.items()}

    sizes = compared_sizes(samples, as_rows)
    one, many = (answer(back(call_at(samples, as_rows, {**sizes, name: size}))) for size in (1, sizes[name]))
    growing = {key: _growing_axis(array, many[key], sizes[name]) for key, array in one.items()}
    if not growing or None in growing.values():
        return False

    def moved(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        outputs = answer(back(inputs), dim)
        return {key: np.moveaxis(array, growing[key] or 0, 0) for key, array in outputs.items()}

    return row_mixing_output(moved, as_rows, samples, []) is None


def _growing_axis(one: Array, many: Array, size: int) -> int | None:
    """The only axis that differs, if it is 1 in the one and `size` in the other; otherwise None."""
    if one.ndim != many.ndim:
        return None
    other = [axis for axis in range(one.ndim) if one.shape[axis] != many.shape[axis]]
    fits = len(other) == 1 and (one.shape[other[0]], many.shape[other[0]]) == (1, size)
    return other[0] if fits else None
