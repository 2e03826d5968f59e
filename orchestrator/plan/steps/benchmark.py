"""The steps `benchmark.runtime` and `benchmark.server`: candidates measured without and with their servers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

from orchestrator.backends.table import BACKENDS, backend, serving_backend
from orchestrator.machine.here import Here
from orchestrator.optimize.sources import SOURCES
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import BENCHMARK_ROUND, BENCHMARK_RUNTIME, BENCHMARK_SERVER
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.plan.steps.image import build_parameters
from orchestrator.plan.steps.source import code_access, source_files, source_parameters, source_tools, union
from orchestrator.plan.steps.variants import variant_output
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import (
    RoundParameters,
    RuntimeBenchmarkParameters,
    ServerBenchmarkParameters,
    ServiceLevel,
)
from orchestrator.steps.roles import ROUND, variant_role, verdict_role
from orchestrator.steps.runtime_options import Batching

__all__ = [
    "AT_ONCE",
    "batch_sizes",
    "candidate_outputs",
    "nothing_proves_the_service_level",
    "round_id",
    "round_step",
    "runtime_benchmark_step",
    "server_benchmark_step",
    "service_level",
]

AT_ONCE = 8
"""Candidates of a later round of a search that are measured in turns, besides those that they are compared with."""

_NO_PROOF = "no server can be measured on this machine, so no candidate can prove `slo`"

_BESIDES_MEASURING = 600.0
"""Seconds that a benchmark may take besides measuring, such as loading models and starting servers."""


_BUILDING = 3600.0
"""Seconds that images may take to be built, whose packages are fetched from an index."""


def runtime_benchmark_step(
    loaded: LoadedSpec,
    model: PlannedModel,
    here: Here,
    candidates: Sequence[Candidate],
    time_budget: float | None = None,
) -> Step:
    """The step that measures candidates and the model as given in their runtimes; without a time budget, the spec's."""
    spec = loaded.spec
    budget = spec.optimize.time_budget if time_budget is None else time_budget
    parameters = RuntimeBenchmarkParameters(
        candidates=tuple(c.parameters() for c in candidates),
        source=source_parameters(loaded, model),
        open_baseline=SOURCES[spec.model.source.kind].baseline,
        batch_sizes=batch_sizes(loaded, model),
        cpus=spec.hardware.cpus,
        memory=spec.hardware.memory,
        time_budget=budget,
        accelerator=spec.hardware.accelerator,
    )
    inputs = candidate_outputs(candidates)
    runtimes = (backend(c.backend).runtimes[c.variant.format].tools for c in candidates)
    return Step(
        id="benchmark.runtime",
        kind="benchmark",
        function="orchestrator.measure.runtime_benchmark:benchmark",
        revision=BENCHMARK_RUNTIME,
        params=parameters.as_json(),
        inputs={"import": StepOutput("import"), **inputs, **source_files(loaded, model)},
        optional=frozenset(inputs),
        user_code=code_access(loaded),
        tools=union(source_tools(loaded), *runtimes),
        machine=True,
        accelerator=parameters.accelerator,
        exclusive=True,
        at=("benchmark",),
        timeout=budget + _BESIDES_MEASURING,
        contenders="verified",
        pointless=_NO_PROOF if nothing_proves_the_service_level(spec, here, candidates) else "",
    )


def round_step(
    loaded: LoadedSpec,
    model: PlannedModel,
    here: Here,
    candidates: Sequence[Candidate],
    number: int,
    *,
    unverified: Collection[str] = (),
    references: Collection[str] = (),
    time_budget: float,
) -> Step:
    """The step that measures the candidates of a round of a search.

    Args:
        loaded: the spec.
        model: its signature, and what was read from the model.
        here: what is available on this machine.
        candidates: of the round.
        number: of the round, from 1.
        unverified: names of those that are measured before they are verified.
        references: names of those that the others are compared with.
        time_budget: seconds.
    """
    spec = loaded.spec
    parameters = RoundParameters(
        candidates=tuple(c.parameters() for c in candidates),
        unverified=tuple(c.name for c in candidates if c.name in unverified),
        drops=number == 1,
        references=tuple(references),
        at_once=AT_ONCE,
        batch_sizes=batch_sizes(loaded, model),
        cpus=spec.hardware.cpus,
        memory=spec.hardware.memory,
        objective=spec.optimize_for,
        time_budget=time_budget,
        accelerator=spec.hardware.accelerator,
    )
    inputs = {
        role: source
        for role, source in candidate_outputs(candidates).items()
        if role not in {verdict_role(name) for name in unverified}
    }
    before = {} if number == 1 else {ROUND: StepOutput(round_id(number - 1))}
    return Step(
        id=round_id(number),
        kind="benchmark",
        function="orchestrator.measure.search_round:measure",
        revision=BENCHMARK_ROUND,
        params=parameters.as_json(),
        inputs={"import": StepOutput("import"), **inputs, **before},
        optional=frozenset(inputs),
        tools=union(*(backend(c.backend).runtimes[c.variant.format].tools for c in candidates)),
        machine=True,
        accelerator=parameters.accelerator,
        exclusive=True,
        at=("optimize", "search"),
        timeout=time_budget + _BESIDES_MEASURING,
        contenders="verified",
        pointless=_NO_PROOF if nothing_proves_the_service_level(spec, here, candidates) else "",
    )


def round_id(number: int) -> str:
    """The id of the step that measures a round of a search, from 1."""
    return f"benchmark.round-{number}"


def server_benchmark_step(
    loaded: LoadedSpec,
    model: PlannedModel,
    here: Here,
    candidates: Sequence[Candidate],
    time_budget: float | None = None,
) -> Step:
    """The step that measures the best candidates in their servers; without a time budget, the spec's."""
    spec = loaded.spec
    budget = spec.optimize.time_budget if time_budget is None else time_budget
    backends = sorted({c.backend for c in candidates})
    inside = spec.benchmark.inside
    parameters = ServerBenchmarkParameters(
        candidates=tuple(c.parameters() for c in candidates),
        signature=model.signature,
        cpus=spec.hardware.cpus,
        memory=spec.hardware.memory,
        # Nothing is measured for the total, nor does it matter here whether the levels decide.
        slo=replace(service_level(spec), total_throughput=None, enforce=True),
        wires=spec.serving.wires,
        batching=_batching(spec),
        batch_sizes=batch_sizes(loaded, model),
        objective=spec.optimize_for,
        time_budget=budget,
        assets=here.assets,
        servers={name: here.server(name).present for name in backends if BACKENDS[name].served},
        accelerator=spec.hardware.accelerator,
        devices=spec.hardware.devices,
        cuda_graphs=bool(spec.hardware.devices) and spec.serving.cuda_graphs,
        tls=spec.serving.tls is not None,
        inside=inside,
        build=build_parameters(loaded, here) if inside == "container" else None,
    )
    inputs = candidate_outputs(candidates)
    return Step(
        id="benchmark.server",
        kind="benchmark",
        function="orchestrator.measure.server_benchmark:benchmark",
        revision=BENCHMARK_SERVER,
        network=True,  # it is a client of the servers that it starts
        containers=inside == "container"
        or any(serving_backend(name).containers for name in backends if BACKENDS[name].served),
        params=parameters.as_json(),
        inputs={"import": StepOutput("import"), **inputs, "runtime": StepOutput("benchmark.runtime")},
        optional=frozenset(inputs),
        tools=union(*(backend(name).tools for name in backends)),
        machine=True,
        accelerator=parameters.accelerator,
        exclusive=True,
        at=("slo",),
        timeout=budget + _BESIDES_MEASURING + (_BUILDING if inside == "container" else 0.0),
        contenders="finalists",
    )


def nothing_proves_the_service_level(spec: ModelDeployment, here: Here, candidates: Sequence[Candidate]) -> bool:
    """Whether an enforced `slo` cannot be met here, because no candidate has a server that can be measured."""
    if not spec.slo.enforce or not spec.slo.asked or spec.benchmark.inside == "container":
        return False
    return not any(BACKENDS[c.backend].served and here.server(c.backend).present for c in candidates)


def candidate_outputs(candidates: Sequence[Candidate]) -> dict[str, StepInput]:
    """The variants and the verdicts of all candidates by role, `variant:VARIANT` and `verdict:CANDIDATE`."""
    variants: dict[str, StepInput] = {variant_role(c.variant.name): variant_output(c.variant) for c in candidates}
    return {**variants, **{verdict_role(c.name): StepOutput(f"verify.{c.name}") for c in candidates}}


def service_level(spec: ModelDeployment) -> ServiceLevel:
    """The service level in `slo`."""
    slo = spec.slo
    return ServiceLevel(slo.p99_latency, slo.throughput, slo.enforce, slo.total_throughput)


def batch_sizes(loaded: LoadedSpec, model: PlannedModel) -> tuple[int, ...]:
    """The spec's batch sizes; without them, and if the model was read, the default ones clamped to its range."""
    sizes, batch = loaded.spec.benchmark.batch_sizes, model.signature.batch
    if loaded.spec.model.inputs or loaded.origin(("benchmark", "batch_sizes")) is not None:
        return tuple(sizes)
    if batch is None:
        return (1,)
    return tuple(sorted({model.signature.fitting(batch, size) for size in sizes}))


def _batching(spec: ModelDeployment) -> Batching | Literal["auto"]:
    batching = spec.serving.batching
    return "auto" if batching == "auto" else Batching(batching.max_size, float(batching.max_delay))
