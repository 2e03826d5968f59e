"""Calls a source model with all samples and edge cases: batch by batch, or one by one if its outputs cannot be told apart by rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.outputs import (
    NotByRow,
    refuse_nan,
    resolve_outputs,
    run_edge_cases,
    run_samples,
    with_seen_shapes,
)
from orchestrator.frameworks.source.smallest_batch import naming_the_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.artifacts.baseline import Answers
    from orchestrator.artifacts.imported import RefusedCase
    from orchestrator.frameworks.source.edge_cases import EdgeCase
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext

__all__ = ["Answered", "answered"]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model answers.

    Attributes:
        signature: with its outputs resolved; without a batch dimension if calls are not batched.
        samples: as they were called: without a batch dimension, a sample is a whole call.
        outputs: on the samples.
        edges: every edge case with its outputs.
        left_out: edge cases that the model refuses.
        notes: what the user should know, a sentence each.
        one_by_one: why calls are not batched although the signature has a batch dimension, a clause; otherwise empty.
    """

    signature: Signature
    samples: Samples
    outputs: dict[str, Answers]
    edges: Sequence[tuple[EdgeCase, dict[str, Array]]]
    left_out: Sequence[tuple[EdgeCase, RefusedCase]]
    notes: tuple[str, ...]
    one_by_one: str = ""


def answered(context: StepContext, answer: Answer, signature: Signature, samples: Samples) -> Answered:
    """Call the model with everything that variants are compared on.

    Raises:
        StepError: E321, E322, E326, E328.
    """
    try:
        return _answered(context, answer, signature, samples)
    except NotByRow as found:
        why = f"the rows of a batch cannot be told apart in `{found.output}`: {found.why}"
        note = f"source: requests are answered one by one, because {why}"
        one_by_one = _answered(context, answer, replace(signature, batch=None), _calls(signature, samples))
        return replace(one_by_one, notes=(note, *one_by_one.notes), one_by_one=why)


def _answered(context: StepContext, answer: Answer, signature: Signature, samples: Samples) -> Answered:
    context.progress("finding the shapes of the outputs")
    with naming_the_batch(answer, signature, samples):
        resolved = resolve_outputs(answer, signature, samples)
    context.progress("running the samples")
    outputs = run_samples(answer, resolved, samples)
    refuse_nan(outputs, samples)
    edges, left_out = run_edge_cases(answer, resolved, samples)
    calls = [(case.inputs, given) for case, given in edges]
    if resolved.batch is None:
        calls += _sample_calls(samples, outputs)
    final, varying = with_seen_shapes(resolved, signature, calls)
    if resolved.batch is not None and varying:
        raise NotByRow(varying[0], "its shape depends on the values of the inputs")
    notes = (f"source: the shape of `{name}` depends on the values of the inputs" for name in varying)
    return Answered(final, samples, outputs, edges, left_out, tuple(notes))


def _sample_calls(samples: Samples, outputs: dict[str, Answers]) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    for row in range(samples.rows):
        inputs = {name: np.asarray(array[row]) for name, array in samples.inputs.items()}
        yield inputs, {name: np.asarray(answers[row]) for name, answers in outputs.items()}


def _calls(signature: Signature, samples: Samples) -> Samples:
    """The samples as calls of the smallest batch; labels are kept where that is a single row."""
    assert signature.batch is not None, "otherwise they are calls already"
    rows, _ = signature.dims[signature.batch]
    calls = max(1, samples.rows // rows)
    chosen = np.resize(np.arange(samples.rows), calls * rows)
    inputs = {name: array[chosen].reshape(calls, rows, *array.shape[1:]) for name, array in samples.inputs.items()}
    return replace(samples, inputs=inputs, labels=samples.labels if rows == 1 else None)
