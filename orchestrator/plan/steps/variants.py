"""The steps that make variants: `convert.FORMAT` and `optimize.VARIANT`; shared steps are only built once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from orchestrator.backends.table import backend
from orchestrator.optimize.variants import Candidate, Pass, Variant
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.plan.steps.source import code_access, source_files, source_parameters, source_tools, union
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters

__all__ = ["step_timeout", "variant_output", "variant_steps"]


def variant_steps(loaded: LoadedSpec, model: PlannedModel, candidates: Iterable[Candidate]) -> list[Step]:
    """The steps that make the variants of all candidates, each once.

    A pass that looks at the gates looks at them on the backends of the candidates that it is for.

    Raises:
        ValueError: two variants are made by different steps of one id.
    """
    candidates = list(candidates)
    backends: dict[str, dict[str, None]] = {}
    for each in candidates:
        for step_id in each.variant.steps:
            backends.setdefault(step_id, {})[each.backend] = None
    steps: dict[str, Step] = {}
    made_by: dict[str, tuple[object, ...]] = {}

    def add(step_id: str, by: tuple[object, ...], make: Callable[[], Step]) -> None:
        """Make the step unless there is one: most variants share their first ones."""
        if (known := made_by.setdefault(step_id, by)) != by:
            raise ValueError(f"two different steps have the id {step_id}: {known} and {by}")
        if step_id not in steps:
            steps[step_id] = make()

    for variant in (each.variant for each in candidates):
        before, *optimized = variant.steps
        add(before, (variant.conversion,), partial(_convert_step, loaded, model, variant))
        for step_id, stage, made in zip(optimized, variant.stages, variant.passes, strict=True):
            make = partial(_pass_step, loaded, model, variant, made, stage, before, tuple(backends[step_id]))
            add(step_id, (made, before, _gates(loaded, variant, made)), make)
            before = step_id
    return list(steps.values())


def variant_output(variant: Variant) -> StepOutput:
    """The folder that holds the variant."""
    return StepOutput(variant.steps[-1])


def step_timeout(loaded: LoadedSpec) -> float:
    """Seconds that making or verifying one candidate may take."""
    return max(60.0, loaded.spec.optimize.time_budget)


def _convert_step(loaded: LoadedSpec, model: PlannedModel, variant: Variant) -> Step:
    transform = variant.conversion
    if transform.function is None:
        raise ValueError(f"the table of formats names no converter for {variant.format}")
    return Step(
        id=variant.steps[0],
        kind="convert",
        function=transform.function,
        revision=transform.revision,
        params=ConvertParameters(source_parameters(loaded, model), accept_traced=_accepted(loaded)).as_json(),
        inputs=_from_source(loaded, model),
        user_code=code_access(loaded),
        tools=union(source_tools(loaded), transform.tools),
        candidate=variant.format,
        at=("optimize", "formats"),
        timeout=step_timeout(loaded),
    )


def _pass_step(
    loaded: LoadedSpec,
    model: PlannedModel,
    variant: Variant,
    each: Pass,
    stage: str,
    before: str,
    backends: tuple[str, ...],
) -> Step:
    transform = each.transform
    if transform.function is None:
        raise ValueError(f"the pass {each.name} names no function")
    made_from: dict[str, StepInput] = {"import": StepOutput("import"), "model": StepOutput(before)}
    accepted = _accepted(loaded) if transform.from_source else ()
    gates = _gates(loaded, variant, each)
    runtimes = [] if gates is None else [backend(name).runtimes[variant.format] for name in backends]
    parameters = OptimizeParameters(
        source_parameters(loaded, model), 0, each.options, accepted, gates, tuple(each.function for each in runtimes)
    )
    tools = union(transform.tools, *(each.tools for each in runtimes))
    return Step(
        id=f"optimize.{stage}",
        kind="optimize",
        function=transform.function,
        revision=transform.revision,
        params=parameters.as_json(),
        inputs=_from_source(loaded, model) if transform.from_source else made_from,
        user_code=code_access(loaded) if transform.from_source else None,
        tools=union(source_tools(loaded), tools) if transform.from_source else tools,
        machine=transform.needs_cpu_features,
        candidate=stage,
        at=("optimize", "precisions"),
        timeout=step_timeout(loaded),
    )


def _gates(loaded: LoadedSpec, variant: Variant, each: Pass) -> dict[str, float] | None:
    """The limits that the variant has to hold, for a pass that looks at them."""
    judged = each.options is not None and each.options.judged
    return loaded.spec.verify.limits(variant.precision) if judged else None


def _accepted(loaded: LoadedSpec) -> tuple[str, ...]:
    return tuple(sorted(set(loaded.spec.verify.accept_traced)))


def _from_source(loaded: LoadedSpec, model: PlannedModel) -> dict[str, StepInput]:
    return {**source_files(loaded, model), "import": StepOutput("import")}
