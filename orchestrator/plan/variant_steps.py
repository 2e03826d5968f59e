"""The steps that make and verify variants: `convert.*`, `optimize.*`, `verify.*`."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.optimize.candidates import Candidate
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.cuda import accelerator
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import VERIFY
from orchestrator.plan.source_steps import code_files, factory_tools, joined, source_files, source_params
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment

__all__ = ["candidate_steps", "variant_step", "variant_steps"]


def variant_step(candidate: Candidate) -> str:
    """The id of the step that leaves the candidate's variant."""
    return f"convert.{candidate.format}" if candidate.make.function is None else f"optimize.{candidate.variant}"


def candidate_steps(candidate: Candidate) -> list[str]:
    """The ids of the steps that make and verify the candidate."""
    made = [] if candidate.make.function is None else [f"optimize.{candidate.variant}"]
    return [f"convert.{candidate.format}", *made, f"verify.{candidate.variant}"]


def variant_steps(loaded: LoadedSpec, model: PlannedModel, tried: Sequence[Candidate]) -> list[Step]:
    """The steps of all candidates; a conversion that several share stands once."""
    spec = loaded.spec
    source = source_params(loaded, model)
    signature = model.signature.as_json()
    timeout = max(60.0, spec.optimize.time_budget)
    source_tools = SOURCES[spec.model.source.kind].tools
    from_source: dict[str, StepInput] = {**source_files(loaded, model), "import": StepOutput("import")}
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
                revision=c.convert.revision,
                params={"source": source, "signature": signature},
                inputs=from_source,
                code=code_files(loaded),
                tools=joined(source_tools, c.convert.tools, factory_tools(loaded)),
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
                revision=c.make.revision,
                params={"source": source, "signature": signature, "seed": 0},
                inputs=from_source if c.make.from_source else converted,
                code=code_files(loaded) if c.make.from_source else (),
                tools=joined(source_tools, c.make.tools, factory_tools(loaded)) if c.make.from_source else c.make.tools,
                machine=c.make.needs_cpu_features,
                candidate=c.variant,
                at=("optimize", "precisions"),
                timeout=timeout,
            )
    for c in tried:
        steps[f"verify.{c.variant}"] = Step(
            id=f"verify.{c.variant}",
            kind="verify",
            function="orchestrator.verify.step:verify",
            revision=VERIFY,
            params={
                "variant": c.variant,
                "format": c.format,
                "precision": c.precision,
                "signature": signature,
                "gates": _gates(spec, c.precision),
                **accelerator(spec),
            },
            inputs={"import": StepOutput("import"), "variant": StepOutput(variant_step(c))},
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
