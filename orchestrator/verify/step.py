"""The step that verifies a candidate: runs it on the samples and the edge inputs, and judges every gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.baseline import Answers, read_baseline
from orchestrator.artifacts.imported import SAMPLES_FILE, Imported, SamplesKind
from orchestrator.artifacts.verdict import (
    Accuracy,
    CaseKind,
    GateResult,
    OutputParity,
    Verdict,
    VerifiedCase,
)
from orchestrator.backends.table import backend
from orchestrator.frameworks.source.runtime import Runtime, open_with
from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import refuse_on, silent
from orchestrator.steps.parameters import VerifyParameters
from orchestrator.steps.reasons import headline
from orchestrator.steps.runtime_options import session_options
from orchestrator.verify.columns import compare_columns
from orchestrator.verify.gates import Gates, judge, worst
from orchestrator.verify.parity import compare, magnitude, shape_mismatch, together
from orchestrator.verify.rows import with_rows

if TYPE_CHECKING:
    from orchestrator.steps.context import StepContext
    from orchestrator.verify.parity import Array

__all__ = ["holds_gates", "verify"]

LARGEST_CALL = 64 * 2**20
"""The maximum size of the inputs of one call, bytes."""

CALLS_OF_ONE = 8
"""The number of rows that are also run individually; batches cover the rest."""


@dataclass(frozen=True, slots=True)
class _Imported:
    """The results of the import step."""

    signature: Signature
    inputs: dict[str, Array]
    baseline: dict[str, Answers]
    labels: Array | None
    classes: tuple[str, ...]
    samples: SamplesKind
    edges: list[tuple[str, dict[str, Array], dict[str, Array]]]

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True, slots=True)
class _Case:
    """One comparison: all samples, one call on samples, or one edge input."""

    name: str
    kind: CaseKind
    expected: Mapping[str, Answers]
    actual: Mapping[str, Answers]


def verify(context: StepContext) -> dict[str, Any]:
    """Run the variant on the samples and the edge inputs, and judge its outputs against the baseline's.

    It runs in the runtime of the candidate's backend, which will serve it. Inputs: `import` and `variant`. Writes a
    `Verdict`: a failed gate is a result, not an error.

    Raises:
        StepError: E420 the variant does not load, E426 it does not run, E427 the accelerator is not used.
    """
    imported = _read(context.inputs["import"])
    parameters = VerifyParameters.from_json(context.params)
    candidate = parameters.candidate
    precision = candidate.precision
    gates = Gates(DEFAULT_GATES[precision], parameters.gates)
    context.progress("loading", 0.0)
    # The number of threads does not change the outputs in any way that matters to a gate.
    runtime = open_with(
        backend(candidate.backend).runtimes[candidate.format].function,
        context.inputs["variant"],
        imported.signature,
        threads=1,
        accelerator=parameters.accelerator,
        **session_options(candidate.options),
    )
    results: list[GateResult] = []
    cases: list[VerifiedCase] = []
    variant_outputs: Mapping[str, Answers] = {}
    for judged, (case, measured) in _judgements(runtime, imported, gates, context.progress):
        if case.kind == "samples":
            variant_outputs = case.actual
        results += judged
        cases.append(VerifiedCase(case=case.name, kind=case.kind, outputs=measured))
    gated = worst(results)
    passed = all(result.passed for result in gated)
    Verdict(
        candidate=candidate.candidate,
        variant=candidate.variant,
        passed=passed,
        gates=tuple(gated),
        cases=tuple(cases),
        samples=imported.samples,
        rows=imported.rows,
        runtime=runtime.facts(),
        accuracy=_accuracy(imported, variant_outputs),
    ).write(context.output)
    failed = [
        f"{r.gate} of {r.output}: {r.detail or ', limit '.join(r.numbers)} ({r.case})" for r in gated if not r.passed
    ]
    return {"passed": passed, "failed": failed, "samples": imported.samples}


def holds_gates(runtime: Runtime, imported: Path, gates: Gates) -> bool:
    """Whether a model holds every gate, for passes that look for what does; no call follows the first that fails.

    Args:
        runtime: with the model.
        imported: the output of the import step.
        gates: the limits.
    """
    read = _read(imported)
    return all(result.passed for results, _ in _judgements(runtime, read, gates, silent) for result in results)


def _judgements(
    runtime: Runtime, imported: _Imported, gates: Gates, progress: Callable[..., None]
) -> Iterator[tuple[list[GateResult], tuple[_Case, dict[str, OutputParity]]]]:
    """Each call's results of all gates, with the call and what was measured."""
    scales = {name: magnitude(array) for name, array in imported.baseline.items()}
    for case in _cases(runtime, imported, progress):
        results: list[GateResult] = []
        measured = {}
        for tensor in imported.signature.outputs:
            name = tensor.name
            parity = _compared(case, name, scales[name], gates.default.noise)
            results += judge(name, case.name, case.kind, parity, gates=gates, classes=name in imported.classes)
            measured[name] = parity
        yield results, (case, measured)


def _compared(case: _Case, output: str, scale: float, noise: float) -> OutputParity:
    expected, actual = case.expected[output], case.actual[output]
    if mismatch := shape_mismatch(expected, actual):
        return OutputParity(mismatch=mismatch)
    one, other = together(expected), together(actual)
    parity = compare(one, other, scale=scale)
    if case.kind != "edge":
        parity = with_rows(parity, expected, actual)
    if case.kind != "samples":
        return parity
    return parity.model_copy(update={"columns": compare_columns(one, other, noise=noise)})


def _cases(runtime: Runtime, imported: _Imported, progress: Callable[..., None]) -> Iterator[_Case]:
    progress("running the samples", 0.1)
    outputs = _all_rows(runtime, imported)
    batch = imported.signature.batch
    if batch is None:
        by_sample = {name: tuple(answers) for name, answers in imported.baseline.items()}
        yield _Case("all samples", "samples", by_sample, outputs)
    else:
        yield _Case("all samples", "samples", imported.baseline, outputs)
        low, _ = imported.signature.dims[batch]
        for first in range(min(CALLS_OF_ONE, imported.rows) if low == 1 else 0):
            yield _rows_case(runtime, imported, np.array([first]), f"row {first} alone")
        largest = imported.signature.fitting(batch, _fitting_rows(imported))
        rows = np.arange(largest) % imported.rows
        progress(f"running a batch of {largest}", 0.5)
        yield _rows_case(runtime, imported, rows, f"a batch of {largest}")
    for index, (name, inputs, expected) in enumerate(imported.edges):
        progress(f"running {name}", 0.6 + 0.4 * index / len(imported.edges))
        yield _Case(name, "edge", expected, _called(runtime, inputs, name))


def _all_rows(runtime: Runtime, imported: _Imported) -> dict[str, Answers]:
    """The variant's outputs on all samples: with rows as the first axis, or those of each call if calls are not batched."""
    batch, rows = imported.signature.batch, np.arange(imported.rows)
    if batch is None:
        calls = [_called(runtime, _row(imported.inputs, row), f"sample {row}") for row in rows]
        return {name: tuple(call[name] for call in calls) for name in calls[0]}
    size = imported.signature.fitting(batch, min(_fitting_rows(imported), len(rows)))
    parts: list[Mapping[str, Array]] = []
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        # If the last call is none that the model allows, it is padded, and the padding is removed from the outputs.
        padded = np.resize(chosen, imported.signature.covering(batch, len(chosen)))
        outputs = _called(runtime, _row(imported.inputs, padded), f"samples {chosen[0]} to {chosen[-1]}")
        parts.append({name: array[: len(chosen)] for name, array in outputs.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows_case(runtime: Runtime, imported: _Imported, rows: Array, name: str) -> _Case:
    expected = {output: np.asarray(together(answers)[rows], order="C") for output, answers in imported.baseline.items()}
    return _Case(name, "call", expected, _called(runtime, _row(imported.inputs, rows), name))


def _row(arrays: Mapping[str, Array], rows: Any) -> dict[str, Array]:
    return {name: np.asarray(array[rows], order="C") for name, array in arrays.items()}


def _called(runtime: Runtime, inputs: Mapping[str, Array], name: str) -> Mapping[str, Array]:
    # Runtimes raise arbitrary exceptions.
    with refuse_on(Exception, "E426", f"the variant does not run on {name}", cause=headline):
        return runtime.run(inputs)


def _fitting_rows(imported: _Imported) -> int:
    row = max(1, sum(array[:1].nbytes for array in imported.inputs.values()))
    return max(1, LARGEST_CALL // row)


def _accuracy(imported: _Imported, actual: Mapping[str, Answers]) -> dict[str, Accuracy]:
    """The share of rows whose top class is their label, for the baseline and the variant; never gated."""
    found = {}
    for name in imported.classes:
        baseline, variant = together(imported.baseline[name]), together(actual[name])
        if variant.shape == baseline.shape:
            found[name] = Accuracy(
                baseline=float(np.mean(baseline.argmax(axis=1) == imported.labels)),
                variant=float(np.mean(variant.argmax(axis=1) == imported.labels)),
            )
    return found


def _read(directory: Path) -> _Imported:
    imported = Imported.read(directory)
    arrays = _arrays(directory / SAMPLES_FILE)
    names = [tensor.name for tensor in imported.signature.inputs]
    return _Imported(
        signature=imported.signature,
        inputs={name: arrays[name] for name in names},
        baseline=read_baseline(directory),
        labels=None if "labels" in names else arrays.get("labels"),
        classes=imported.classes,
        samples=imported.samples,
        edges=[
            (case.name, _arrays(case.inputs_file(directory)), _arrays(case.outputs_file(directory)))
            for case in imported.edge_cases
        ],
    )


def _arrays(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
