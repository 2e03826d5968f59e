"""Asks a source model twice, and for rows in other company, whatever its framework: does it answer the same?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.edge_inputs import call_at, sizes_of
from orchestrator.frameworks.source.samples import random_samples

if TYPE_CHECKING:
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["differs_again", "differs_in_company", "with_company"]

_TOLERANCE = {"float16": 1e-2}
"""How far two answers to the same row may lie apart: this, and this times the output's largest value."""
_FULL_TOLERANCE = 1e-5

_ROWS = 8
_ROWS_ALONE = 4


def differs_again(answer: Answer, signature: Signature, samples: Samples) -> str | None:
    """The first output that is another when the same inputs are given again; None where there is none.

    Raises:
        StepError: as `answer`.
    """
    inputs = call_at(samples, signature, _sizes(samples, signature))
    once, twice = answer(inputs), answer(inputs)
    return next((name for name in once if not _close(once[name], twice[name])), None)


def differs_in_company(answer: Answer, signature: Signature, samples: Samples) -> str | None:
    """The first output whose row depends on the other rows of its batch; None where there is none.

    Raises:
        StepError: as `answer`.
    """
    dim = signature.batch
    if dim is None:
        return None
    samples = with_company(samples, signature)
    sizes = _sizes(samples, signature)
    low = signature.dims[dim][0]
    for first in range(min(_ROWS_ALONE, samples.rows)):
        # The smallest batch that begins with this row; in one as large as before, its company is at least another.
        few = call_at(samples, signature, {**sizes, dim: low}, first)
        many = call_at(samples, signature, sizes, first)
        if low == sizes[dim]:
            few = {name: np.concatenate([array[:1], np.zeros_like(array[1:])]) for name, array in few.items()}
        alone, together = answer(few, dim), answer(many, dim)
        for name, array in alone.items():
            other = together[name]
            if array.ndim == 0 or array.shape[1:] != other.shape[1:]:
                continue  # an output without a batch dimension is told later, by that name
            if not _close(array[:1], other[:1]):
                return name
    return None


def with_company(samples: Samples, signature: Signature) -> Samples:
    """The samples with a random row beside them where there is but one, which cannot show that rows mix."""
    if samples.rows > 1:
        return samples
    other = random_samples(signature, seed=1)
    sizes = sizes_of(samples, signature)
    company = call_at(other, signature, {**sizes, signature.batch or "": 1}, first=1)
    joined = {name: np.concatenate([array, company[name]]) for name, array in samples.inputs.items()}
    return type(samples)(joined, None, real=samples.real)


def _sizes(samples: Samples, signature: Signature) -> dict[str, int]:
    """The samples' sizes, and some rows."""
    sizes = sizes_of(samples, signature)
    if signature.batch is not None:
        low, high = signature.dims[signature.batch]
        sizes[signature.batch] = min(high, max(low, min(_ROWS, samples.rows)))
    return sizes


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    allowed = _TOLERANCE.get(one.dtype.name, _FULL_TOLERANCE)
    left, right = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(left) & np.isfinite(right)
    largest = float(np.abs(left[finite]).max(initial=0.0))
    return bool(np.allclose(left, right, rtol=0.0, atol=allowed * (1 + largest), equal_nan=True))
