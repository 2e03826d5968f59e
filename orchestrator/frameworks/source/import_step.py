"""The last part of every import step, and its output: signature, samples, the source's outputs on them, and facts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.baseline import BASELINE_FILE, as_arrays
from orchestrator.artifacts.imported import SAMPLES_FILE, EdgeCase, Imported
from orchestrator.frameworks.source.answered import answered
from orchestrator.frameworks.source.integer_ranges import found_ranges
from orchestrator.frameworks.source.samples import LABELS, STRING, Samples, random_samples, read_samples, write_npz
from orchestrator.steps.parameters import ImportParameters
from orchestrator.verify.classes import holds_classes
from orchestrator.verify.parity import together

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orchestrator.artifacts.baseline import Answers
    from orchestrator.frameworks.source.integer_ranges import Tried
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array, IntegerRange
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext

__all__ = ["SourceResults", "given_samples", "read_import", "record", "write_import"]


def given_samples(
    context: StepContext,
    parameters: ImportParameters,
    tried: Tried,
    shown: Callable[[], Mapping[str, IntegerRange]],
) -> Samples:
    """The samples that the spec gives, or random ones.

    The integers of the file that `mlo init` made are drawn anew, since only the model itself shows from which range, and so is
    what the spec says of an input.

    Args:
        context: with the input `samples` if given.
        parameters: of the import step.
        tried: calls the source, to find out which random integers it takes.
        shown: gives what the model's graph shows of its integer inputs; called only where they are drawn.

    Raises:
        StepError: E340-E346.
    """
    signature = parameters.signature
    given = None
    if "samples" in context.inputs:
        given = read_samples(context.inputs["samples"], signature, parameters.max_rows)
        if given.real:
            return given
    integers = any(np.dtype(t.dtype).kind in "iu" for t in signature.inputs if t.dtype != STRING and t.allowed is None)
    context.progress("finding the range of random integers")
    ranges, notes = found_ranges(signature, shown() if integers else {}, tried, parameters.seed)
    drawn = random_samples(signature, parameters.seed, ranges, inner_batch=parameters.inner_batch)
    if given is None:
        return replace(drawn, notes=(*drawn.notes, *notes))
    said = [tensor.name for tensor in signature.inputs if tensor.allowed is not None]
    anew = {name: _rows_of(drawn.inputs[name], given.inputs[name]) for name in (*ranges, *said)}
    return replace(given, inputs={**given.inputs, **anew}, notes=(*given.notes, *notes))


def _rows_of(drawn: Array, given: Array) -> Array:
    """What was drawn, repeated or cut to the shape of what is given."""
    return np.resize(drawn, given.shape)


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
    """Find the shapes of the outputs, run the samples and the edge cases, and write the results with `write_import`.

    Args:
        context: of the import step.
        answer: calls the source model.
        signature: with the outputs in the model's order.
        samples: the inputs to run it on.
        parameters: the number of the model's parameters.
        framework: package → version that ran it.
        notes: what the user should know about the source, each beginning with `source: `.

    Returns:
        The facts, which are also the step's summary.

    Raises:
        StepError: E321, E322, E326, E328.
    """
    found = answered(context, answer, signature, samples)
    samples, outputs = found.samples, found.outputs
    imported = Imported(
        signature=found.signature,
        samples="real" if samples.real else "random",
        rows=samples.rows,
        classes=tuple(
            sorted(name for name, answers in outputs.items() if holds_classes(together(answers), samples.labels))
        ),
        parameters=parameters,
        framework=framework,
        notes=(
            *notes,
            *samples.notes,
            *found.notes,
            *(case.note for case, _ in found.edges if case.note),
            *(
                f"source: the model refuses a {refused.name}, as clients will see too; where it takes only multiples of a "
                f"number, declare `multiple_of` in `dims:`: {refused.reason}"
                for case, refused in found.left_out
                if case.inner
            ),
        ),
        one_by_one=found.one_by_one or ImportParameters.from_json(context.params).one_by_one or None,
        infinite_outputs=tuple(sorted(name for name, answers in outputs.items() if not all(map(_finite, answers)))),
        edge_cases=tuple(
            EdgeCase(name=case.name, number=number, finite=all(_finite(array) for array in edge.values()))
            for number, (case, edge) in enumerate(found.edges)
        ),
        edge_cases_left_out=tuple(refused for _, refused in found.left_out),
    )
    edges = [(case.inputs, edge) for case, edge in found.edges]
    write_import(context.output, imported, samples, SourceResults(outputs, edges))
    return _summary(imported)


def _summary(imported: Imported) -> dict[str, Any]:
    """The facts for people."""
    return {
        **imported.model_dump(mode="json", exclude={"signature", "edge_cases"}),
        "edge_cases_not_finite": [case.name for case in imported.edge_cases if not case.finite],
    }


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


@dataclass(frozen=True, slots=True)
class SourceResults:
    """The results of the source model.

    Attributes:
        outputs: on the samples, by name.
        edges: inputs and outputs of every edge case by name, in the order of `Imported.edge_cases`.
    """

    outputs: Mapping[str, Answers]
    edges: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]


def write_import(folder: Path, imported: Imported, samples: Samples, results: SourceResults) -> None:
    """Write the document, the samples, the baseline's outputs and the edge cases; reproducible byte for byte."""
    imported.write(folder)
    labels = {} if samples.labels is None else {LABELS: samples.labels}
    write_npz(folder / SAMPLES_FILE, {**samples.inputs, **labels})
    write_npz(folder / BASELINE_FILE, as_arrays(results.outputs))
    (folder / "edge").mkdir()
    for case, (inputs, outputs) in zip(imported.edge_cases, results.edges, strict=True):
        write_npz(case.inputs_file(folder), inputs)
        write_npz(case.outputs_file(folder), outputs)


def read_import(folder: Path) -> tuple[Signature, Samples]:
    """The signature with its outputs resolved, and the samples without their labels.

    Args:
        folder: the input `import` of a step.
    """
    imported = Imported.read(folder)
    with np.load(folder / SAMPLES_FILE, allow_pickle=False) as file:
        inputs = {tensor.name: file[tensor.name] for tensor in imported.signature.inputs}
    return imported.signature, Samples(inputs, None, real=imported.samples == "real")
