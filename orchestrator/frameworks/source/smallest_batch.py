"""Finds out whether a model that fails takes nothing but its smallest batch, so that the error can say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.frameworks.source.edge_cases import call_at, sizes_of
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["naming_the_batch"]

Call = Callable[[Mapping[str, "Array"]], object]

_FAILED = {"E321", "E322"}


@contextmanager
def naming_the_batch(call: Call, signature: Signature, samples: Samples) -> Iterator[None]:
    """Where the model fails on a call, try its smallest batch and the next larger one before the error is passed on.

    Args:
        call: the model; raises a StepError if it fails.
        signature: as declared.
        samples: the values of the calls.

    Raises:
        StepError: E322, with the range to declare, if it takes the one and not the other; otherwise what was raised inside.
    """
    try:
        yield
    except StepError as error:
        if error.code not in _FAILED or signature.batch is None:
            raise
        (low, high), step = signature.dims[signature.batch], signature.multiples.get(signature.batch, 1)
        if low == high or _refusal(call, signature, samples, low) is not None:
            raise
        refusal = _refusal(call, signature, samples, low + step)
        if refusal is None:
            raise
        raise _only(signature.batch, low, refusal) from error


def _refusal(call: Call, signature: Signature, samples: Samples, rows: int) -> StepError | None:
    assert signature.batch is not None, "asked only where there is a batch"
    sizes = {**sizes_of(samples, signature), signature.batch: rows}
    try:
        call(call_at(samples, signature, sizes))
    except StepError as error:
        return error
    return None


def _only(batch: str, rows: int, refusal: StepError) -> StepError:
    return StepError(
        "E322",
        f"the model answers a batch of {rows}, and fails with one more row",
        cause=refusal.cause,
        remedy=f"declare `dims: {{{batch}: {{min: {rows}, max: {rows}}}}}`, which works, or save the model with an open batch",
        at=("model", "dims", batch),
        notes=refusal.diagnostic.notes,
    )
