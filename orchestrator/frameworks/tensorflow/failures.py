"""Turns exceptions of TensorFlow, Keras and their converters into one line that a model's author can act on."""

from __future__ import annotations

import re
import sys
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from orchestrator.spec.signature import Signature

__all__ = ["conversion_failed", "converting", "no_counterpart"]

_WITHOUT_KERNEL = re.compile(r"^(?:TF Select|Custom) ops: (?P<names>.+)$", re.MULTILINE)
_NEEDS_STATIC = re.compile(r"'tf\.TensorList\w+' op requires element_shape to be static")
_PLACES = re.compile(r"^(?:loc\(|<unknown>:\d+: |(?:/\S+|\S+\.py):\d+:\d+: )?(?:error: )?")


def no_counterpart(target: str, names: Collection[str]) -> StepError:
    """E422: the target has no counterpart for these operators of TensorFlow.

    Args:
        target: the format, such as "ONNX".
        names: TensorFlow's names of the operators.
    """
    listed = ", ".join(sorted(names))
    return StepError(
        "E422",
        f"the model does not convert to {target}",
        cause=f"{target} has no counterpart for the operator{'s' if len(names) > 1 else ''} {listed}",
        remedy="write it with other operators, or leave this format out of `optimize.formats`",
    )


def conversion_failed(target: str, error: Exception, signature: Signature, *, traced_anew: bool) -> StepError:
    """The error for a failed conversion; the whole traceback goes to the log (standard error).

    Args:
        target: the format, such as "LiteRT".
        error: the converter's exception.
        signature: to find the line in the spec.
        traced_anew: whether the graph is traced with the declared sizes, as for Keras models; a saved graph keeps the sizes
            that it was saved with.
    """
    traceback.print_exception(error, file=sys.stderr)
    text = str(error)
    if names := {
        name for found in _WITHOUT_KERNEL.finditer(text) for name in re.split(r",\s*", found["names"].strip())
    }:
        return no_counterpart(target, names)
    if _NEEDS_STATIC.search(text):
        return _loop_over_open_batch(target, signature, traced_anew=traced_anew)
    return StepError("E422", f"the model does not convert to {target}", cause=_PLACES.sub("", headline(error), count=1))


def _loop_over_open_batch(target: str, signature: Signature, *, traced_anew: bool) -> StepError:
    batch = signature.batch or "the first dimension"
    if traced_anew:
        remedy = f"declare one size for {batch} (`{batch}: {{min: 1, max: 1}}`), or build the layer with unroll=True"
    else:
        remedy = (
            f"give the Keras model (`kind: keras`) with one size for {batch}, or save it with unroll=True in the layer"
        )
    return StepError(
        "E422",
        f"the model does not convert to {target}",
        cause="a recurrent layer (LSTM, GRU, RNN) is a loop, and LiteRT supports loops over batches of a fixed size only",
        remedy=f"{remedy}; or leave this format out of `optimize.formats`",
        at=("model", "dims", batch) if batch in signature.dims else (),
    )


@contextmanager
def converting(target: str, signature: Signature, *, traced_anew: bool) -> Iterator[None]:
    """Turn any exception of a converter into E422: TensorFlow and the converters raise all kinds of errors.

    Args:
        target: as in `conversion_failed`.
        signature: as in `conversion_failed`.
        traced_anew: as in `conversion_failed`.

    Raises:
        StepError: E422.
    """
    with refuse_as(Exception, lambda error: conversion_failed(target, error, signature, traced_anew=traced_anew)):
        yield
