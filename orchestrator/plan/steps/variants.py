"""The steps that make variants: `convert.FORMAT` and `optimize.VARIANT`; shared steps are only built once."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.optimize.variants import Pass, Variant
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.plan.steps.source import code_access, source_files, source_parameters, source_tools, union
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters

__all__ = ["step_timeout", "variant_output", "variant_steps"]


def variant_steps(loaded: LoadedSpec, model: PlannedModel, variants: Iterable[Variant]) -> list[Step]:
    """The steps of all variants, each once.

    Raises:
        ValueError: two variants are made by different steps of one id.
    """
    steps: dict[str, Step] = {}
    for variant in variants:
        before, *optimized = variant.steps
        made = [_convert_step(loaded, model, variant)]
        for step_id, stage, each in zip(optimized, variant.stages, variant.passes, strict=True):
            made.append(_pass_step(loaded, model, each, stage, before))
            before = step_id
        for step in made:
            if (known := steps.setdefault(step.id, step)) != step:
                raise ValueError(f"two different steps have the id {step.id}: {known} and {step}")
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


def _pass_step(loaded: LoadedSpec, model: PlannedModel, each: Pass, stage: str, before: str) -> Step:
    transform = each.transform
    if transform.function is None:
        raise ValueError(f"the pass {each.name} names no function")
    made_from: dict[str, StepInput] = {"import": StepOutput("import"), "model": StepOutput(before)}
    accepted = _accepted(loaded) if transform.from_source else ()
    parameters = OptimizeParameters(source_parameters(loaded, model), 0, each.options, accepted)
    return Step(
        id=f"optimize.{stage}",
        kind="optimize",
        function=transform.function,
        revision=transform.revision,
        params=parameters.as_json(),
        inputs=_from_source(loaded, model) if transform.from_source else made_from,
        user_code=code_access(loaded) if transform.from_source else None,
        tools=union(source_tools(loaded), transform.tools) if transform.from_source else transform.tools,
        machine=transform.needs_cpu_features,
        candidate=stage,
        at=("optimize", "precisions"),
        timeout=step_timeout(loaded),
    )


def _accepted(loaded: LoadedSpec) -> tuple[str, ...]:
    return tuple(sorted(set(loaded.spec.verify.accept_traced)))


def _from_source(loaded: LoadedSpec, model: PlannedModel) -> dict[str, StepInput]:
    return {**source_files(loaded, model), "import": StepOutput("import")}
