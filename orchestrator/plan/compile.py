"""A checked spec compiled into a plan. Milliseconds; nothing is run, no framework is imported."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.backends.table import backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.optimize.candidates import Candidate, RefusedCandidate, candidates
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.machine import fingerprint
from orchestrator.plan.step import FileInput, Plan, Step, StepInput, StepOutput
from orchestrator.plan.tools import distributions, install_hint, version
from orchestrator.render.assets import assets_digest
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment, PytorchSource
from orchestrator.spec.signature import declared_signature

__all__ = ["DRAIN_SECONDS", "compile_plan"]

DRAIN_SECONDS = 5
"""How long a stopping server still answers, while the endpoints that point at it are being taken away."""


def _server_tools(name: str) -> tuple[str, ...]:
    return backend(name).tools


def compile_plan(loaded: LoadedSpec) -> Plan:
    """The steps that this spec needs.

    Raises:
        SpecInvalid: a package is missing without which not one candidate could be made, or all are refused.
    """
    spec = loaded.spec
    tried, refused = _sort_out(loaded)
    steps = [_import_step(loaded), *_variant_steps(loaded, tried)]
    verdicts: dict[str, StepInput] = {f"verdict:{c.variant}": StepOutput(f"verify.{c.variant}") for c in tried}
    variants: dict[str, StepInput] = {f"variant:{c.variant}": StepOutput(_variant_step(c)) for c in tried}
    listed = [_row(c) for c in tried]
    fates = [
        *({**_row(c), "refused": None, "steps": _candidate_steps(c)} for c in tried),
        *({**_row(r), "refused": r.reason, "steps": []} for r in refused),
    ]
    signature = declared_signature(spec).as_json()
    slo = {"p99_latency": spec.slo.p99_latency, "throughput": spec.slo.throughput, "enforce": spec.slo.enforce}
    measured: dict[str, StepInput] = {"import": StepOutput("import"), **variants, **verdicts}
    optional = frozenset({*variants, *verdicts})
    backends = sorted({c.backend for c in tried})
    steps += [
        Step(
            id="benchmark.runtime",
            kind="benchmark",
            function="orchestrator.measure.runtime_benchmark:benchmark",
            revision=1,
            params={
                "candidates": listed,
                "baseline": {"source": _source_params(spec)},
                "batch_sizes": list(spec.benchmark.batch_sizes),
                "cpus": spec.hardware.cpus,
                "memory": spec.hardware.memory,
                "signature": signature,
                "time_budget": spec.optimize.time_budget,
            },
            inputs={**measured, "weights": _weights(loaded)},
            optional=optional,
            code=_code_files(loaded),
            tools=_sorted(SOURCES[spec.model.source.kind].tools, _factory_tools(loaded), *(FORMATS[c.format].runtime_tools for c in tried)),
            machine=True,
            exclusive=True,
            at=("benchmark",),
            timeout=spec.optimize.time_budget + 600,
        ),
        Step(
            id="benchmark.server",
            kind="benchmark",
            function="orchestrator.measure.server_benchmark:benchmark",
            revision=1,
            network=True,  # it is a client of the servers that it starts
            params={
                "candidates": listed,
                "signature": signature,
                "cpus": spec.hardware.cpus,
                "memory": spec.hardware.memory,
                "slo": {"p99_latency": spec.slo.p99_latency, "throughput": spec.slo.throughput},
                "batching": _batching(spec),
                "objective": spec.optimize_for,
                "time_budget": spec.optimize.time_budget,
                # Whether a backend can be started at all decides what is measured, so it is part of the key.
                "assets": assets_digest(),
                "present": {"java": shutil.which("java") is not None} if "torchserve" in backends else {},
            },
            inputs={**measured, "runtime": StepOutput("benchmark.runtime")},
            optional=optional,
            tools=_sorted(*map(_server_tools, backends)),
            machine=True,
            exclusive=True,
            at=("slo",),
            timeout=spec.optimize.time_budget + 600,
        ),
        Step(
            id="select",
            kind="select",
            function="orchestrator.optimize.select:select",
            revision=1,
            params={"candidates": fates, "slo": slo, "objective": spec.optimize_for, "signature": signature,
                    "cpus": spec.hardware.cpus},
            inputs={
                **measured,
                "runtime": StepOutput("benchmark.runtime"),
                "server": StepOutput("benchmark.server"),
            },
            optional=optional,
            at=("slo",),
            gathers_fates=True,
            tools=_sorted(*map(_server_tools, backends)),
        ),
        _render_step(loaded, variants),
        Step(id="deploy", kind="deploy", function="", revision=1, params={"target": spec.deploy.target},
             inputs={"rendered": StepOutput("render")}, live=True, at=("deploy",)),
        Step(id="check", kind="check", function="", revision=1, params={},
             inputs={"rendered": StepOutput("render"), "import": StepOutput("import")}, live=True, at=("deploy",)),
    ]  # fmt: skip
    return Plan(spec.metadata.name, tuple(steps), refused, loaded.folder, _notes(spec, backends))


def _notes(spec: ModelDeployment, backends: list[str]) -> tuple[str, ...]:
    """What a reviewer of the plan should know before saying yes."""
    notes = []
    if "torchserve" in backends:
        notes.append(
            "TorchServe is no longer maintained and gets no security fixes; it never wins a tie, and "
            "`serving: {backend: onnxruntime}` or a platform rule leaves it out"
        )
    if spec.model.samples is None:
        notes.append("no `samples:` are given, so parity is proven on random inputs only")
    if (present := fingerprint()["cpus"]) < spec.hardware.cpus:
        notes.append(
            f"this machine has {present:g} CPUs, so `hardware.cpus: {spec.hardware.cpus:g}` is measured on fewer"
        )
    if spec.image.base is None or "@sha256:" not in spec.image.base:
        notes.append("the base image is named by tag; pin it with `image: {base: NAME@sha256:DIGEST}`")
    return tuple(notes)


def _sorted(*packages: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for group in packages for name in group}))


def _row(candidate: Candidate | RefusedCandidate) -> dict[str, str]:
    return {
        "variant": candidate.variant,
        "format": candidate.format,
        "precision": candidate.precision,
        "backend": candidate.backend,
    }


def _sort_out(loaded: LoadedSpec) -> tuple[tuple[Candidate, ...], tuple[RefusedCandidate, ...]]:
    """The candidates to try, and those refused; missing packages refuse a candidate, or the spec if none is left."""
    _require(loaded, SOURCES[loaded.spec.model.source.kind].tools, ("model", "source", "kind"))
    tried: list[Candidate] = []
    refused: list[RefusedCandidate] = []
    lacking: set[str] = set()
    for c in candidates(loaded.spec):
        if isinstance(c, RefusedCandidate):
            refused.append(c)
        elif missing := _missing(_candidate_tools(c)):
            lacking.update(missing)
            reason = f"{', '.join(missing)} not installed: {install_hint(missing)}"
            refused.append(RefusedCandidate(c.variant, c.format, c.precision, c.backend, reason))
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
                else "allow more formats or precisions under `optimize:`, or another `serving.backend`",
                notes=tuple(f"{r.variant}: {r.reason}" for r in refused),
            )
        )
    return tuple(tried), tuple(refused)


def _candidate_tools(candidate: Candidate) -> tuple[str, ...]:
    return _sorted(
        candidate.convert.tools,
        candidate.make.tools,
        FORMATS[candidate.format].runtime_tools,
        _server_tools(candidate.backend),
    )


def _missing(packages: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({p for p in packages if version(p) is None}))


def _require(loaded: LoadedSpec, packages: Iterable[str], at: tuple[str | int, ...]) -> None:
    if missing := _missing(packages):
        raise SpecInvalid(
            Diagnostic(
                code="E202",
                message=f"{loaded.spec.model.source.kind} models need {', '.join(missing)}, which is not installed",
                span=loaded.span(at),
                remedy=install_hint(missing),
            )
        )


def _variant_step(candidate: Candidate) -> str:
    return f"convert.{candidate.format}" if candidate.make.function is None else f"optimize.{candidate.variant}"


def _candidate_steps(candidate: Candidate) -> list[str]:
    made = [] if candidate.make.function is None else [f"optimize.{candidate.variant}"]
    return [f"convert.{candidate.format}", *made, f"verify.{candidate.variant}"]


def _source_params(spec: ModelDeployment) -> dict[str, Any]:
    return spec.model.source.model_dump(mode="json", exclude={"weights", "sha256"}, exclude_none=True)


def _weights(loaded: LoadedSpec) -> FileInput:
    return FileInput(loaded.spec.path(loaded.spec.model.source.weights, loaded.folder), ("model", "source", "weights"))


def _code_files(loaded: LoadedSpec) -> tuple[FileInput, ...]:
    """The module that the factory names, where it lies beside the spec; an installed one is a tool instead."""
    source = loaded.spec.model.source
    if not isinstance(source, PytorchSource):
        return ()
    relative = Path(*source.factory.partition(":")[0].split("."))
    for path in (loaded.folder / relative.with_suffix(".py"), loaded.folder / relative / "__init__.py"):
        if path.is_file():
            return (FileInput(path, ("model", "source", "factory")),)
    return ()


def _factory_tools(loaded: LoadedSpec) -> tuple[str, ...]:
    """The distribution that brings the factory's module, where it does not lie beside the spec."""
    source = loaded.spec.model.source
    if not isinstance(source, PytorchSource) or _code_files(loaded):
        return ()
    return distributions(source.factory.partition(":")[0].partition(".")[0])


def _import_step(loaded: LoadedSpec) -> Step:
    spec = loaded.spec
    source = SOURCES[spec.model.source.kind]
    inputs: dict[str, StepInput] = {"weights": _weights(loaded)}
    if spec.model.samples is not None:
        inputs["samples"] = FileInput(spec.path(spec.model.samples, loaded.folder), ("model", "samples"))
    return Step(
        id="import",
        kind="import",
        function=source.check,
        revision=1,
        params={
            "source": _source_params(spec),
            "signature": declared_signature(spec).as_json(),
            "seed": 0,
            "max_rows": 256,
        },
        inputs=inputs,
        code=_code_files(loaded),
        tools=_sorted(source.tools, _factory_tools(loaded)),
        at=("model",),
    )


def _variant_steps(loaded: LoadedSpec, tried: tuple[Candidate, ...]) -> list[Step]:
    spec = loaded.spec
    source = _source_params(spec)
    signature = declared_signature(spec).as_json()
    timeout = max(60.0, spec.optimize.time_budget)
    source_tools = SOURCES[spec.model.source.kind].tools
    from_source: dict[str, StepInput] = {"weights": _weights(loaded), "import": StepOutput("import")}
    steps: dict[str, Step] = {}
    for c in tried:
        if c.convert.function is None:
            raise ValueError(f"the table of formats names no converter for {c.format}")
        steps.setdefault(
            f"convert.{c.format}",
            Step(
                id=f"convert.{c.format}",
                kind="convert",
                function=c.convert.function,
                revision=1,
                params={"source": source, "signature": signature},
                inputs=from_source,
                code=_code_files(loaded),
                tools=_sorted(source_tools, c.convert.tools, _factory_tools(loaded)),
                candidate=c.format,
                at=("optimize", "formats"),
                timeout=timeout,
            ),
        )
        if c.make.function is not None:
            converted: dict[str, StepInput] = {
                "import": StepOutput("import"),
                "model": StepOutput(f"convert.{c.format}"),
            }
            steps[f"optimize.{c.variant}"] = Step(
                id=f"optimize.{c.variant}",
                kind="optimize",
                function=c.make.function,
                revision=1,
                params={"source": source, "signature": signature, "seed": 0},
                inputs=from_source if c.make.from_source else converted,
                code=_code_files(loaded) if c.make.from_source else (),
                tools=_sorted(source_tools, c.make.tools, _factory_tools(loaded))
                if c.make.from_source
                else c.make.tools,
                machine=c.make.needs_cpu_features,
                candidate=c.variant,
                at=("optimize", "precisions"),
                timeout=timeout,
            )
    for c in tried:
        steps[f"verify.{c.variant}"] = Step(
            id=f"verify.{c.variant}",
            kind="verify",
            function="orchestrator.measure.verify:verify",
            revision=1,
            params={
                "variant": c.variant,
                "format": c.format,
                "precision": c.precision,
                "signature": signature,
                "gates": _gates(spec, c.precision),
            },
            inputs={"import": StepOutput("import"), "variant": StepOutput(_variant_step(c))},
            tools=FORMATS[c.format].runtime_tools,
            machine=True,
            candidate=c.variant,
            at=("verify",),
            timeout=timeout,
        )
    return list(steps.values())


def _gates(spec: ModelDeployment, precision: str) -> dict[str, float]:
    """The gates that the spec sets for one precision; the defaults are the verify step's own."""
    gates = {}
    for name in ("max_abs_error", "max_rel_error", "min_cosine"):
        limits = getattr(spec.verify, name)
        if precision in limits:
            gates[name] = limits[precision]
    if spec.verify.min_top1_agreement is not None:
        gates["min_top1_agreement"] = spec.verify.min_top1_agreement
    return gates


def _batching(spec: ModelDeployment) -> dict[str, float] | str:
    batching = spec.serving.batching
    if batching == "auto":
        return "auto"
    return {"max_size": batching.max_size, "max_delay": float(batching.max_delay)}


def _render_step(loaded: LoadedSpec, variants: dict[str, StepInput]) -> Step:
    spec = loaded.spec
    return Step(
        id="render",
        kind="render",
        function="orchestrator.render.step:render",
        revision=1,
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
            },
            "assets": assets_digest(),
        },
        inputs={"winner": StepOutput("select", "winner.json"), **variants},
        optional=frozenset(variants),
        only_winner=True,
        tools=("jinja2",),
        at=("image",),
    )
