"""A checked spec compiled into a plan. Milliseconds; nothing is run, no framework is imported."""

from __future__ import annotations

from typing import Any

from orchestrator.artifacts.imported import SAMPLES_FILE
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import BACKENDS, backend, serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.packages import install_hint, without_cuda
from orchestrator.optimize.candidates import Candidate, RefusedCandidate, candidates
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.cuda import CudaHere, accelerator, cuda_notes, serving_devices
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import BENCHMARK_RUNTIME, BENCHMARK_SERVER, RENDER, SELECT
from orchestrator.plan.source_steps import (
    code_files,
    factory_tools,
    import_step,
    inspect_step,
    joined,
    missing,
    require_source_tools,
    source_files,
    source_params,
)
from orchestrator.plan.step import Plan, Step, StepInput, StepOutput
from orchestrator.plan.variant_steps import candidate_steps, variant_step, variant_steps
from orchestrator.render.assets import assets_digest
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.random_mark import is_random
from orchestrator.spec.signature import Signature

__all__ = ["DRAIN_SECONDS", "compile_plan"]

DRAIN_SECONDS = 5
"""How long a stopping server still answers, while the endpoints that point at it are being taken away."""


def _server_tools(name: str) -> tuple[str, ...]:
    return backend(name).tools


def compile_plan(loaded: LoadedSpec, model: PlannedModel, cuda: CudaHere | None) -> Plan:
    """The steps that this spec needs.

    Args:
        loaded: the spec.
        model: its signature, and what was read from the model.
        cuda: what this machine has, for a spec that asks for CUDA devices (`cuda_here`).

    Raises:
        SpecInvalid: a package is missing without which not one candidate could be made, or all are refused.
    """
    spec = loaded.spec
    tried, refused = _sort_out(loaded, model.signature, cuda)
    inspected = inspect_step(loaded)
    steps = [] if inspected is None else [inspected]
    steps += [import_step(loaded, model), *variant_steps(loaded, model, tried)]
    verdicts: dict[str, StepInput] = {f"verdict:{c.variant}": StepOutput(f"verify.{c.variant}") for c in tried}
    variants: dict[str, StepInput] = {f"variant:{c.variant}": StepOutput(variant_step(c)) for c in tried}
    listed = [_row(c) for c in tried]
    fates = [
        *({**_row(c), "refused": None, "steps": candidate_steps(c)} for c in tried),
        *({**_row(r), "refused": r.reason, "steps": []} for r in refused),
    ]
    signature = model.signature.as_json()
    slo = {"p99_latency": spec.slo.p99_latency, "throughput": spec.slo.throughput, "enforce": spec.slo.enforce}
    measured: dict[str, StepInput] = {"import": StepOutput("import"), **variants, **verdicts}
    optional = frozenset({*variants, *verdicts})
    backends = sorted({c.backend for c in tried})
    steps += [
        Step(
            id="benchmark.runtime",
            kind="benchmark",
            function="orchestrator.measure.runtime_benchmark:benchmark",
            revision=BENCHMARK_RUNTIME,
            params={
                "candidates": listed,
                "baseline": {"source": source_params(loaded, model)},
                "open_baseline": SOURCES[spec.model.source.kind].baseline,
                "batch_sizes": _batch_sizes(loaded, model),
                "cpus": spec.hardware.cpus,
                "memory": spec.hardware.memory,
                "signature": signature,
                "time_budget": spec.optimize.time_budget,
                **accelerator(spec),
            },
            inputs={**measured, **source_files(loaded, model)},
            optional=optional,
            code=code_files(loaded),
            tools=joined(SOURCES[spec.model.source.kind].tools, factory_tools(loaded), *(FORMATS[c.format].runtime_tools for c in tried)),
            machine=True,
            exclusive=True,
            at=("benchmark",),
            timeout=spec.optimize.time_budget + 600,
        ),
        Step(
            id="benchmark.server",
            kind="benchmark",
            function="orchestrator.measure.server_benchmark:benchmark",
            revision=BENCHMARK_SERVER,
            network=True,  # it is a client of the servers that it starts
            params={
                "candidates": listed,
                "signature": signature,
                "cpus": spec.hardware.cpus,
                "memory": spec.hardware.memory,
                "slo": {"p99_latency": spec.slo.p99_latency, "throughput": spec.slo.throughput},
                "batching": _batching(spec),
                "batch_sizes": _batch_sizes(loaded, model),
                "objective": spec.optimize_for,
                "time_budget": spec.optimize.time_budget,
                "assets": assets_digest(),
                "present": _present(spec, backends),
                **accelerator(spec),
                **serving_devices(spec),
            },
            inputs={**measured, "runtime": StepOutput("benchmark.runtime")},
            optional=optional,
            tools=joined(*map(_server_tools, backends)),
            machine=True,
            exclusive=True,
            at=("slo",),
            timeout=spec.optimize.time_budget + 600,
        ),
        Step(
            id="select",
            kind="select",
            function="orchestrator.select.step:select",
            revision=SELECT,
            params={"candidates": fates, "slo": slo, "objective": spec.optimize_for, "signature": signature,
                    "source": spec.model.source.kind,
                    "cpus": spec.hardware.cpus, "runtime_level": _runtime_level(spec),
                    **accelerator(spec)},
            inputs={
                **measured,
                "runtime": StepOutput("benchmark.runtime"),
                "server": StepOutput("benchmark.server"),
            },
            optional=optional,
            at=("slo",),
            gathers_fates=True,
            tools=joined(*map(_server_tools, backends)),
        ),
        _render_step(loaded, model, variants),
        Step(id="deploy", kind="deploy", function="", revision=1, params={"target": spec.deploy.target},
             inputs={"rendered": StepOutput("render")}, live=True, at=("deploy",)),
        Step(id="check", kind="check", function="", revision=1, params={},
             inputs={"rendered": StepOutput("render"), "import": StepOutput("import")}, live=True, at=("deploy",)),
    ]  # fmt: skip
    return Plan(spec.metadata.name, tuple(steps), refused, loaded.folder, _notes(loaded, backends, model, cuda), model)


def _present(spec: ModelDeployment, backends: list[str]) -> dict[str, Any]:
    """What no package's version tells: whether a backend's server can be started here, and which it is.

    It decides what is measured, so it is part of the key; what is false is not started.
    """
    return {name: serving_backend(name).present(spec.hardware.devices) for name in backends if BACKENDS[name].served}


def _notes(loaded: LoadedSpec, backends: list[str], model: PlannedModel, cuda: CudaHere | None) -> tuple[str, ...]:
    """What a reviewer of the plan should know before saying yes."""
    spec = loaded.spec
    notes = [*model.notes, *cuda_notes(spec, cuda)]
    asked = spec.slo.p99_latency is not None or spec.slo.throughput is not None
    served = [name for name in backends if BACKENDS[name].served]
    for name in served:
        notes += serving_backend(name).notes(spec.hardware.devices)
    if spec.model.samples is None:
        notes.append("no `samples:` are given, so parity is proven on random inputs only")
    elif is_random(spec.path(spec.model.samples, loaded.folder)):
        notes.append("the samples are the random ones of `mlo init`, so parity is proven on random inputs only")
    if (present := fingerprint()["cpus"]) < spec.hardware.cpus:
        notes.append(
            f"this machine has {present:g} CPUs, so `hardware.cpus: {spec.hardware.cpus:g}` is measured on fewer"
        )
    if asked and spec.slo.enforce and not _measured_over_the_wire(spec, backends):
        notes.append(
            "nothing is measured over the wire here, so no candidate can prove `slo`, and `apply` ends with E501 after "
            "measuring; `slo: {enforce: false}` takes the best one without that proof"
        )
    if not served:
        return tuple(notes)  # and there is no image
    if spec.image.base is None or "@sha256:" not in spec.image.base:
        notes.append("the base image is named by tag; pin it with `image: {base: NAME@sha256:DIGEST}`")
    return tuple(notes)


def _measured_over_the_wire(spec: ModelDeployment, backends: list[str]) -> bool:
    """Whether any candidate's server can be started here."""
    return any(_present(spec, backends).values())


def _runtime_level(spec: ModelDeployment) -> list[str]:
    """Backends that may be chosen by their runtimes' figures where their servers cannot be measured."""
    return [name for name in BACKENDS if backend(name).runtime_decides(served=not spec.deploy.takes_unserved)]


def _batch_sizes(loaded: LoadedSpec, model: PlannedModel) -> list[int]:
    """What the spec says; where it leaves them out and the model was read, the default brought into its range."""
    sizes, batch = loaded.spec.benchmark.batch_sizes, model.signature.batch
    if loaded.spec.model.inputs or loaded.origin(("benchmark", "batch_sizes")) != "default":
        return list(sizes)
    if batch is None:
        return [1]
    low, high = model.signature.dims[batch]
    return sorted({min(max(size, low), high) for size in sizes})


def _row(candidate: Candidate | RefusedCandidate) -> dict[str, Any]:
    as_given = isinstance(candidate, Candidate) and candidate.convert.as_given and candidate.make.function is None
    return {
        "as_given": as_given,
        "variant": candidate.variant,
        "format": candidate.format,
        "precision": candidate.precision,
        "backend": candidate.backend,
    }


def _sort_out(
    loaded: LoadedSpec, signature: Signature, cuda: CudaHere | None
) -> tuple[tuple[Candidate, ...], tuple[RefusedCandidate, ...]]:
    """The candidates to try, and those refused; missing packages refuse a candidate, or the spec if none is left."""
    require_source_tools(loaded)
    tried: list[Candidate] = []
    refused: list[RefusedCandidate] = []
    lacking: set[str] = set()
    builds: set[str] = set()
    for c in candidates(loaded.spec, signature, _forbidden(loaded)):
        if isinstance(c, RefusedCandidate):
            refused.append(c)
        elif absent := missing(_candidate_tools(c)):
            lacking.update(absent)
            reason = f"{', '.join(absent)} not installed: {install_hint(absent)}"
            refused.append(RefusedCandidate(c.variant, c.format, c.precision, c.backend, reason))
        elif cuda is not None and (build := without_cuda(_running_tools(c), cuda.path)) is not None:
            builds.add(build.remedy)
            refused.append(RefusedCandidate(c.variant, c.format, c.precision, c.backend, build.reason))
        else:
            tried.append(c)
    if not tried:
        raise SpecInvalid(
            Diagnostic(
                code="E201",
                message="not one candidate can be tried",
                span=loaded.span(("optimize",)),
                cause="every format and precision that the spec allows is refused",
                remedy=install_hint(tuple(sorted(lacking)))
                if lacking
                else "; ".join(sorted(builds))
                or "allow more formats or precisions under `optimize:`, or another `serving.backend`",
                notes=tuple(f"{r.variant}: {r.reason}" for r in refused),
            )
        )
    return tuple(tried), tuple(refused)


def _forbidden(loaded: LoadedSpec) -> dict[str, str]:
    """The backends that the platform does not allow → why, with the rule's place."""
    bounds = loaded.bounds
    if bounds is None or bounds.rules.backends is None:
        return {}
    rule = f"{bounds.shown}:{bounds.line_of('rules', 'backends')}"
    return {
        name: f"the platform does not allow {name} ({rule})" for name in BACKENDS if name not in bounds.rules.backends
    }


def _candidate_tools(candidate: Candidate) -> tuple[str, ...]:
    return joined(candidate.convert.tools, candidate.make.tools, _running_tools(candidate))


def _running_tools(candidate: Candidate) -> tuple[str, ...]:
    """The packages that run the variant, rather than make it."""
    return joined(FORMATS[candidate.format].runtime_tools, _server_tools(candidate.backend))


def _batching(spec: ModelDeployment) -> dict[str, float] | str:
    batching = spec.serving.batching
    if batching == "auto":
        return "auto"
    return {"max_size": batching.max_size, "max_delay": float(batching.max_delay)}


def _render_step(loaded: LoadedSpec, model: PlannedModel, variants: dict[str, StepInput]) -> Step:
    spec = loaded.spec
    return Step(
        id="render",
        kind="render",
        function="orchestrator.render.step:render",
        revision=RENDER,
        params={
            "deployment": {
                "name": spec.metadata.name,
                "labels": dict(spec.metadata.labels),
                "replicas": {"min": spec.serving.replicas.min, "max": spec.serving.replicas.max},
                "registry": spec.image.registry,
                "base": spec.image.base,
            },
            "settings": {
                "name": spec.metadata.name,
                "cpus": spec.hardware.cpus,
                "memory": spec.hardware.memory,
                "drain_seconds": DRAIN_SECONDS,
                "spec_digest": loaded.digest,
                "batch_sizes": _batch_sizes(loaded, model),
                **serving_devices(spec),
            },
            "assets": assets_digest(),
        },
        inputs={
            "winner": StepOutput("select", Winner.FILE),
            "samples": StepOutput("import", SAMPLES_FILE),
            **variants,
        },
        optional=frozenset(variants),
        only_winner=True,
        tools=("jinja2",),
        at=("image",),
    )
