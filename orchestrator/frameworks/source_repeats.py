"""Proves of any source model, by calling it alone: twice gives the same, and a row's answer is its own.

PyTorch's sources have `torch_evaluation.py`, which also finds the operation that is to blame.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.edge_inputs import call_at, sizes_of
from orchestrator.frameworks.samples import random_samples
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.samples import Array, Samples
    from orchestrator.frameworks.source_outputs import Answer
    from orchestrator.spec.signature import Signature

__all__ = ["prove_repeats"]

TOLERANCE = {"float64": 1e-5, "float32": 1e-5, "float16": 1e-2}
"""How far two answers to the same row may lie apart: this, and this times the output's largest value."""

_ROWS = 8
_AT = ("model", "source", "weights")


def prove_repeats(answer: Answer, signature: Signature, samples: Samples) -> None:
    """Run some rows twice with another call in between, and rows in other company, and compare.

    Args:
        answer: calls the source model.
        signature: as declared; outputs need no shapes.
        samples: at least one row.

    Raises:
        StepError: E321, E322 the model raises, E330 random numbers are drawn, E331 rows change each other's answers, E332 a
            call changes the next.
    """
    sizes = sizes_of(samples, signature)
    batch = signature.batch
    samples = _with_company(samples, signature)
    rows = 1
    if batch is not None:
        low, high = signature.dims[batch]
        rows = min(high, max(low, min(_ROWS, samples.rows)))
        sizes = {**sizes, batch: rows}
    inputs = call_at(samples, signature, sizes)
    once, again = answer(inputs, batch), answer(inputs, batch)
    answer(call_at(samples, signature, sizes, first=1), batch)
    later = answer(inputs, batch)
    if not _same(again, later):
        raise _remembers() if _same(once, again) else _draws()
    if not _same(once, again):
        raise _remembers()
    if batch is None:
        return
    low = signature.dims[batch][0]
    for first in range(min(4, samples.rows)):
        few = call_at(samples, signature, {**sizes, batch: low}, first)
        if low == rows:  # the batch cannot be smaller; its other rows can be others
            few = {name: np.concatenate([array[:1], np.zeros_like(array[1:])]) for name, array in few.items()}
        many = call_at(samples, signature, sizes, first)
        if not _same(_first_rows(answer(many, batch)), _first_rows(answer(few, batch))):
            raise _mixes()


def _with_company(samples: Samples, signature: Signature) -> Samples:
    """One row cannot show anything of others; a random one is put beside it."""
    if samples.rows > 1:
        return samples
    sizes = sizes_of(samples, signature)
    if signature.batch is not None:
        sizes[signature.batch] = 1
    company = call_at(random_samples(signature, seed=1), signature, sizes)
    if signature.batch is None:
        company = {name: array[None] for name, array in company.items()}
    return replace(samples, inputs={n: np.concatenate([array, company[n]]) for n, array in samples.inputs.items()})


def _first_rows(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """An output without a batch dimension is told later, by that name."""
    return {name: array[:1] for name, array in outputs.items() if array.ndim}


def _same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return all(one[name].shape != other[name].shape or _close(one[name], other[name]) for name in one)


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    allowed = TOLERANCE.get(one.dtype.name, 1e-5)
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    largest = float(np.abs(left[finite]).max(initial=0.0))
    return bool(np.allclose(left, right, rtol=0.0, atol=allowed * (1 + largest), equal_nan=True))


def _draws() -> StepError:
    return StepError(
        "E330",
        "the model gives another answer when it is asked again: dropout or other randomness is left on",
        remedy="save the model as it is in inference, and draw nothing at random in it, or make it an input",
        at=_AT,
    )


def _remembers() -> StepError:
    return StepError(
        "E332",
        "the model gives another answer when it is asked again: a call changes the next one",
        remedy="keep nothing between calls, or make it an input and an output",
        at=_AT,
    )


def _mixes() -> StepError:
    return StepError(
        "E331",
        "a row's answer depends on what else is in its batch: batch statistics or other mixing of rows",
        remedy="save the model as it is in inference; compute along other dimensions than the first, or declare inputs "
        "without a batch dimension",
        at=_AT,
    )
