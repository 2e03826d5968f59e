"""The step `benchmark.runtime`: measures every verified candidate and the baseline in their runtimes, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.artifacts.measurement import MeasuredOn
from orchestrator.artifacts.runtime_report import CandidateRuntimeResult, RuntimeReport, RuntimeResult
from orchestrator.machine.cpus import cpu_share
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.measure.runtime_candidates import LeftOut, runtime_candidates
from orchestrator.measure.runtime_report import artifact_bytes, raw_arrays, runtime_result
from orchestrator.measure.sweep import Measurement, SweepSettings, sweep
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import RuntimeBenchmarkParameters
from orchestrator.steps.roles import variant_role

__all__ = ["batch_sizes", "benchmark"]


def benchmark(context: StepContext) -> dict[str, Any]:
    """Measure all candidates and the baseline; writes a `RuntimeReport` and `raw.npz` (docs/measuring.md).

    Inputs: `import`, `weights`, and `variant:VARIANT` and `verdict:CANDIDATE` if they exist.

    Raises:
        StepError: E440, no batch size is within the model's range.
    """
    import numpy as np  # noqa: PLC0415 - see raw_arrays

    parameters = RuntimeBenchmarkParameters.from_json(context.params)
    imported = Imported.read(context.inputs["import"])
    signature = imported.signature
    share = cpu_share(parameters.cpus)
    candidates, left_out = runtime_candidates(context, parameters, signature.as_json(), share.threads)
    settings = SweepSettings(
        batch_sizes=batch_sizes(parameters.batch_sizes, signature),
        batched=signature.batch is not None,
        share=share,
        memory=parameters.memory,
        samples=context.inputs["import"] / SAMPLES_FILE,
        time_budget=parameters.time_budget,
    )
    measurements = sweep(candidates, settings, context.scratch, context.progress)
    devices = cuda_devices() if parameters.accelerator == "cuda" else None
    report = RuntimeReport(
        measured_on=MeasuredOn.of(share, devices),
        memory=settings.memory,
        batch_sizes=settings.batch_sizes,
        samples=imported.samples,
        rounds=settings.rounds,
        baseline=runtime_result(measurements[0], None),
        candidates=_candidates(context, parameters, measurements, left_out),
    )
    report.write(context.output)
    # The type stubs do not allow arrays as arbitrary keyword arguments.
    np.savez_compressed(context.output / "raw.npz", **raw_arrays(measurements))  # type: ignore[arg-type]
    return _summary(report)


def batch_sizes(wanted: Sequence[int], signature: Signature) -> tuple[int, ...]:
    """Those of the wanted batch sizes that the model takes, ascending.

    Raises:
        StepError: E440, there are none.
    """
    if signature.batch is None:
        return (1,)
    low, high = signature.dims[signature.batch]
    sizes = tuple(sorted({size for size in wanted if size in signature.sizes(signature.batch)}))
    if not sizes:
        raise StepError(
            "E440",
            "no batch size can be measured",
            cause=f"the model takes {low} to {high} rows ({signature.batch}), and none of the given sizes is one of them",
            remedy=f"list sizes that it takes, such as {signature.fitting(signature.batch, max(wanted, default=low))}, in "
            "`benchmark.batch_sizes`, or leave it out",
            at=("benchmark", "batch_sizes"),
        )
    return sizes


def _candidates(
    context: StepContext,
    parameters: RuntimeBenchmarkParameters,
    measurements: list[Measurement],
    left_out: list[LeftOut],
) -> tuple[CandidateRuntimeResult, ...]:
    """All candidates in the order of the parameters, including those that were left out."""
    baseline, *measured = measurements
    results = {m.name: runtime_result(m, baseline) for m in measured}
    for left in left_out:
        results[left.name] = RuntimeResult(fate="not measured", reason=left.reason, error=None, measured=None)
    rows = []
    for each in parameters.candidates:
        variant = context.inputs.get(variant_role(each.variant))
        size = None if variant is None else artifact_bytes(variant)
        identity, result = candidate_identity(each), results[each.candidate]
        rows.append(
            CandidateRuntimeResult(**dict(identity), **dict(result), as_given=each.as_given, artifact_bytes=size)
        )
    return tuple(rows)


def _summary(report: RuntimeReport) -> dict[str, Any]:
    measured = [c for c in report.candidates if c.fate in {"measured", "dominated"}]
    return {
        "measured": len(measured),
        "left out": len(report.candidates) - len(measured),
        "how": report.measured_on.how,
    }
