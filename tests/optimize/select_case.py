"""Reports as the benchmarks write them, made of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.artifacts.candidate import candidate_identity
from orchestrator.artifacts.fates import Fates, StepFate
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.measurement import MeasuredOn, NotMeasured, Objective, Times, WarmUp
from orchestrator.artifacts.runtime_report import (
    AgainstBaseline,
    BatchTimes,
    CandidateRuntimeResult,
    PairedTimes,
    RuntimeFate,
    RuntimeMeasurement,
    RuntimeReport,
    RuntimeResult,
)
from orchestrator.artifacts.server_report import (
    CandidateServerResult,
    GeneratorDelay,
    GeneratorLimit,
    Knee,
    LoadGenerator,
    MeasuredLevel,
    MeasuredProgram,
    OpenLoop,
    OtherProcesses,
    P99Level,
    Saturation,
    ServerFate,
    ServerMeasurement,
    ServerReport,
    ServerSettings,
    ServerWarmUp,
    ServiceLevel,
    ThroughputLevel,
    WireResult,
)
from orchestrator.artifacts.verdict import Verdict
from orchestrator.diagnostics import Diagnostic
from orchestrator.measure.statistics import quantile_test
from orchestrator.select.step import select
from orchestrator.spec.gates import PRECISIONS
from orchestrator.spec.types import Wire
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, RefusedParameters, SelectParameters
from orchestrator.steps.parameters import ServiceLevel as AskedLevel
from orchestrator.steps.runtime_options import RuntimeOptions
from tests.artifacts.made import RUNTIME, facts, imported, verdict

LIMIT = 0.02
RATE = 200.0
BACKENDS = {"onnx": "onnxruntime", "tflite": "litert", "saved-model": "tensorflow-serving"}
SETTINGS = ServerSettings(max_batch_size=8, max_delay=0.0)
MEASURED_ON = MeasuredOn(cpus=2, cpus_wanted=2.0, threads=2, how="measured with 2 CPUs", accelerators=None, driver=None)


INT8, FP32, SCRIPT = "onnx-int8", "onnx-fp32", "torchscript-fp32"


def candidate(name: str, *, refused: str | None = None, given: bool = False) -> dict[str, Any]:
    """An entry of the parameter `candidates`; `given`: it is the original model.

    Args:
        name: backend and options follow from it, as in `onnx-int8@openvino+instances=2`.
    """
    served, *options = name.split("+")
    variant, _, backend = served.partition("@")
    format_name, _, precision = variant.rpartition("-")
    changed: dict[str, Any] = {option: int(value) for option, _, value in (each.partition("=") for each in options)}
    return {
        "candidate": name,
        "variant": variant,
        "format": format_name,
        "precision": precision if precision in PRECISIONS else "fp32",
        "backend": backend or BACKENDS.get(format_name, "torchserve"),
        "options": RuntimeOptions(**changed),
        "as_given": given,
        "refused": refused,
        "steps": [] if refused else [f"convert.{format_name}", f"verify.{name}"],
    }


def _candidate(each: Mapping[str, Any]) -> CandidateParameters:
    names = ("candidate", "variant", "format", "precision", "backend", "options", "as_given")
    return CandidateParameters(**{name: each[name] for name in names})


def _refused(each: Mapping[str, Any]) -> RefusedParameters:
    names = ("candidate", "variant", "format", "precision", "backend")
    return RefusedParameters(**{name: each[name] for name in names}, reason=each["refused"])


def times(p50: float, p99: float, samples: int = 500) -> dict[str, Any]:
    """The fields of `Times`."""
    return dict(Times(samples=samples, mean=p50, p50=p50, p90=p99, p95=p99, p99=p99, max=p99))


def runtime_measurement(latency: float, against: AgainstBaseline | None, *, settled: bool = True) -> RuntimeMeasurement:
    """One batch size, `latency` seconds per call."""
    batch = BatchTimes(
        **times(latency, latency * 1.5),
        rows=1,
        rounds=12,
        rows_per_second=1 / latency,
        without_warm_up=None,
        warm_up=WarmUp(settled=settled, windows=8),
    )
    return RuntimeMeasurement(
        load_seconds=0.5,
        first_inference_seconds=latency * 3,
        peak_rss=60 * 2**20,
        largest_batch=1,
        limited_by="",
        runtime=RUNTIME,
        batches=(batch,),
        against_baseline=against,
    )


def runtime_candidate(
    variant: str,
    *,
    ratio: float = 0.5,
    spread: float = 0.1,
    fate: RuntimeFate = "measured",
    reason: str = "",
    rounds: int = 12,
    given: bool = False,
    settled: bool = True,
) -> CandidateRuntimeResult:
    """Of the runtime benchmark: `ratio` of the baseline's time, give or take `spread`."""
    low, high = (ratio - spread, ratio + spread) if rounds >= 6 else (0.0, None)
    paired = PairedTimes(rows=1, baseline_rows=1, ratio=ratio, low=low, high=high, rounds=rounds)
    against = AgainstBaseline(latency=paired, throughput=paired)
    measured = runtime_measurement(0.004 * ratio, against, settled=settled)
    return CandidateRuntimeResult(
        **dict(candidate_identity(_candidate(candidate(variant)))),
        fate=fate,
        reason=reason,
        error=None,
        measured=measured,
        as_given=given,
        artifact_bytes=1000,
    )


def not_timed(
    variant: str, fate: RuntimeFate, reason: str = "", error: Diagnostic | None = None
) -> CandidateRuntimeResult:
    """Of the runtime benchmark: nothing could be measured, for a reason or because of an error."""
    return CandidateRuntimeResult(
        **dict(candidate_identity(_candidate(candidate(variant)))),
        fate=fate,
        reason=error.sentence if error else reason,
        error=error,
        measured=None,
        as_given=False,
        artifact_bytes=None,
    )


def wire_result(wire: Wire = "json", *, call: float = 0.005, model: float | None = 0.004) -> WireResult:
    """Of single calls over a wire."""
    return WireResult(
        wire=wire,
        request_bytes=3_100_000,
        answer_bytes=1000,
        call=call,
        model=model,
        connections=32,
        rows_per_second=900.0,
        refused="",
    )


def server_candidate(
    variant: str,
    *,
    p99: float = 0.008,
    over: int = 0,
    samples: int = 1400,
    rows_per_second: float = 1000.0,
    cpu: float = 0.001,
    peak: int = 100 * 2**20,
    ready: float = 1.0,
    limit: float | None = LIMIT,
    wanted: float | None = RATE,
    spread: float = 0.02,
    interval: tuple[float, float | None] | None = None,
    refused: dict[str, int] | None = None,
    program: MeasuredProgram | None = None,
    settled: bool = True,
    slowest: tuple[float, ...] = (),
    limited: bool = False,
    wires: tuple[WireResult, ...] | None = None,
    knee: float | None = 400.0,
    longest: float = 0.05,
    others: OtherProcesses | None = None,
) -> CandidateServerResult:
    """Of the server benchmark; its verdict follows from `over` of `samples`, `spread` is that of every number."""
    found = quantile_test([1.0] * over + [0.0] * (samples - over), 0.5)
    level = None
    disturbed = found.status == "missed" and others is not None and others.disturbed > 0
    if limit is not None:
        level = P99Level(
            **asdict(found) | ({"status": "inconclusive"} if disturbed else {}),
            limit=limit,
            quantile=0.99,
            confidence=0.99,
            generator_late=False,
            disturbed=disturbed,
        )
    carried = None
    if wanted is not None:
        met = rows_per_second >= wanted
        carried = ThroughputLevel(
            wanted=wanted,
            reached=rows_per_second,
            met=met,
            generator_late=False,
            generator_limited=False,
            disturbed=False,
        )
    wires = wires or (wire_result(),)
    measured = ServerMeasurement(
        wire=wires[0].wire,
        wires=wires,
        settings=SETTINGS,
        inside="process",
        image=None,
        program=program,
        ready_seconds=ready,
        first_request_seconds=0.01,
        peak_rss=peak,
        warm_up=ServerWarmUp(settled=settled, windows=8, requests_per_second=rows_per_second),
        generator=GeneratorLimit(connections=32, requests_per_second=30_000.0, cpu_seconds_per_request=0.00001),
        refused=refused or {},
        open_loop=OpenLoop(
            **times(p99 / 2, p99, samples),
            rate=RATE,
            segments=4,
            p99_interval=interval or (p99 * (1 - spread), p99 * (1 + spread)),
            slowest=slowest or (p99,) * min(10, samples),
            generator_delay=GeneratorDelay(p50=0.0001, p99=0.0002),
            cpus=RATE * cpu,
        ),
        saturation=Saturation(
            **times(p99 / 2, p99),
            connections=32,
            seconds=2.0,
            answered=int(2 * rows_per_second),
            at_least=rows_per_second,
            rows_per_second=None if limited else rows_per_second,
            cpu_seconds_per_request=cpu,
            generator_cpu_seconds_per_request=0.00001,
            by_segment=(rows_per_second * (1 - spread), *(rows_per_second,) * 2, rows_per_second * (1 + spread)),
            cpu_by_segment=(cpu * (1 - spread), cpu, cpu, cpu * (1 + spread)),
        ),
        slo=MeasuredLevel(p99=level, throughput=carried),
        knee=None
        if level is None
        else NotMeasured(reason="it is not proven that it holds the limit")
        if knee is None or level.status != "met"
        else Knee(**times(p99 / 2, p99), rate=knee, level=level, cpus=knee * cpu, unsearched=""),
        longest_request=longest,
        others=others,
    )
    return CandidateServerResult(
        **dict(candidate_identity(_candidate(candidate(variant)))),
        fate="measured",
        reason="",
        error=None,
        settings=SETTINGS,
        measured=measured,
    )


def not_served(
    variant: str, fate: ServerFate, reason: str = "", error: Diagnostic | None = None
) -> CandidateServerResult:
    """Of the server benchmark: not measured there, for a reason or because of an error."""
    settings = SETTINGS if fate == "no server" else None
    return CandidateServerResult(
        **dict(candidate_identity(_candidate(candidate(variant)))),
        fate=fate,
        reason=error.sentence if error else reason,
        error=error,
        settings=settings,
        measured=None,
    )


def runtime_report(rows: Sequence[CandidateRuntimeResult], samples: SamplesKind = "real") -> RuntimeReport:
    """With a baseline that takes 4 ms per call."""
    baseline = RuntimeResult(fate="measured", reason="", error=None, measured=runtime_measurement(0.004, None))
    return RuntimeReport(
        measured_on=MEASURED_ON,
        memory=2**31,
        batch_sizes=(1,),
        samples=samples,
        rounds=12,
        baseline=baseline,
        candidates=tuple(rows),
    )


def server_report(rows: Sequence[CandidateServerResult], measured_on: MeasuredOn = MEASURED_ON) -> ServerReport:
    """With a load generator on the servers' CPUs."""
    return ServerReport(
        measured_on=measured_on,
        load_generator=LoadGenerator(cpus=2, shares_cpus=True),
        memory=2**31,
        slo=ServiceLevel(p99_latency=LIMIT, throughput=RATE),
        objective="latency",
        rate=RATE,
        rate_from="slo.throughput",
        candidates=tuple(rows),
    )


def context(
    folder: Path,
    candidates: Sequence[Mapping[str, Any]],
    runtime: Sequence[CandidateRuntimeResult],
    server: Sequence[CandidateServerResult] | None,
    *,
    fates: Mapping[str, StepFate] | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    objective: Objective = "latency",
    enforce: bool = True,
    samples: SamplesKind = "real",
    measured_on: MeasuredOn = MEASURED_ON,
) -> StepContext:
    """The context that the engine would give the step `select`."""

    def made(*parts: str) -> Path:
        path = folder.joinpath(*parts)
        path.mkdir(parents=True)
        return path

    inputs = {"import": made("import"), "runtime": made("runtime"), "fates": folder / Fates.FILE}
    imported(samples=samples).write(inputs["import"])
    runtime_report(runtime, samples).write(inputs["runtime"])
    Fates(steps=fates or {}).write(folder)
    if server is not None:
        inputs["server"] = made("server")
        server_report(server, measured_on).write(inputs["server"])
    for one in candidates:
        name = one["candidate"]
        role = f"variant:{one['variant']}"
        if role not in inputs:
            inputs[role] = made("variants", one["variant"])
            (inputs[role] / "model.onnx").write_text(one["variant"], encoding="utf-8")
            facts(one["format"], one["precision"]).write(inputs[role])
        inputs[f"verdict:{name}"] = made("verdicts", name)
        (verdicts or {}).get(name, verdict(name)).write(inputs[f"verdict:{name}"])
    parameters = SelectParameters(
        candidates=tuple(_candidate(each) for each in candidates if each["refused"] is None),
        steps={each["candidate"]: tuple(each["steps"]) for each in candidates if each["refused"] is None},
        refused=tuple(_refused(each) for each in candidates if each["refused"] is not None),
        slo=AskedLevel(LIMIT, RATE, enforce),
        objective=objective,
        cpus=2.0,
        memory=2**31,
        runtime_level=("tensorflow-serving",),
        source="pytorch",
    )
    return StepContext(parameters.as_json(), inputs, made("output"), made("scratch"), folder)


def decide(made: StepContext) -> dict[str, Any]:
    select(made)
    decision: dict[str, Any] = json.loads((made.output / "decision.json").read_bytes())
    return decision


def fates(decision: dict[str, Any]) -> dict[str, str]:
    return {candidate["candidate"]: candidate["fate"] for candidate in decision["candidates"]}


def reasons(decision: dict[str, Any]) -> dict[str, str]:
    return {candidate["candidate"]: candidate["reason"] for candidate in decision["candidates"]}


def two(folder: Path, first: CandidateServerResult, second: CandidateServerResult, **options: Any) -> dict[str, Any]:
    """The decision between two measured servers."""
    names = [first.candidate, second.candidate]
    return decide(
        context(
            folder, [candidate(n) for n in names], [runtime_candidate(n) for n in names], [first, second], **options
        )
    )
