"""The end of every import step, whatever the framework: samples, answers, edge cases, and what is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.imported import EdgeCase, Imported
from orchestrator.frameworks.source.import_result import Answered, write_import
from orchestrator.frameworks.source.outputs import answer_edges, answer_rows, refuse_nan, resolve_outputs
from orchestrator.frameworks.source.samples import Samples, random_samples, read_samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature
    from orchestrator.steps import StepContext

__all__ = ["given_samples", "record"]


def given_samples(context: StepContext, signature: Signature) -> Samples:
    """The samples that the spec gives, or random ones.

    Args:
        context: with the input `samples` if given, and the parameters `max_rows` and `seed`.
        signature: as declared.

    Raises:
        StepError: E340-E345.
    """
    if "samples" in context.inputs:
        return read_samples(context.inputs["samples"], signature, int(context.params.get("max_rows", 256)))
    return random_samples(signature, int(context.params.get("seed", 0)))


def record(
    context: StepContext,
    answer: Answer,
    signature: Signature,
    samples: Samples,
    *,
    parameters: int,
    framework: Mapping[str, str],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Find the outputs' shapes, answer the samples and the edge cases, and write what `write_import` says.

    Args:
        context: of the import step.
        answer: calls the source model.
        signature: with the outputs in the model's order.
        samples: what it is asked.
        parameters: how many numbers the model has learnt.
        framework: package → version that ran it.
        notes: what a person should know of the source, each beginning with `source: `.

    Returns:
        The facts, which are the step's summary too.

    Raises:
        StepError: E321, E322, E326, E327, E328.
    """
    context.progress("finding the shapes of the outputs")
    signature = resolve_outputs(answer, signature, samples)
    context.progress("answering the samples")
    outputs = answer_rows(answer, signature, samples)
    refuse_nan(outputs, samples)
    answered, left_out = answer_edges(answer, signature, samples)
    imported = Imported(
        signature=signature,
        samples="real" if samples.real else "random",
        rows=samples.rows,
        labelled=samples.labels is not None,
        parameters=parameters,
        framework=framework,
        notes=(*notes, *samples.notes, *(case.note for case, _ in answered if case.note)),
        infinite_outputs=tuple(sorted(name for name, array in outputs.items() if not _finite(array))),
        edge_cases=tuple(
            EdgeCase(name=case.name, number=number, finite=all(_finite(array) for array in edge.values()))
            for number, (case, edge) in enumerate(answered)
        ),
        edge_cases_left_out=tuple(left_out),
    )
    write_import(context.output, imported, samples, Answered(outputs, [(c.inputs, edge) for c, edge in answered]))
    return _summary(imported)


def _summary(imported: Imported) -> dict[str, Any]:
    """The facts for people."""
    return {
        **imported.model_dump(mode="json", exclude={"signature", "edge_cases"}),
        "edge_cases_not_finite": [case.name for case in imported.edge_cases if not case.finite],
    }


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
