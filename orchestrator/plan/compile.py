"""Compiles a checked spec into a plan: a pure function of the spec, what was read from the model, and the machine."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.machine.here import Here
from orchestrator.optimize.variants import Candidate, RefusedCandidate, distinct
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.notes import plan_notes
from orchestrator.plan.search.rounds import Search, with_search
from orchestrator.plan.step import Plan, Step
from orchestrator.plan.steps.benchmark import runtime_benchmark_step, server_benchmark_step
from orchestrator.plan.steps.release import live_steps, render_step
from orchestrator.plan.steps.select import select_step
from orchestrator.plan.steps.source import import_step, inspect_step
from orchestrator.plan.steps.variants import variant_steps
from orchestrator.plan.steps.verify import verify_step
from orchestrator.plan.tried import tried_and_refused
from orchestrator.spec.load import LoadedSpec

__all__ = ["compile_plan", "plan_of"]


def compile_plan(loaded: LoadedSpec, model: PlannedModel, here: Here) -> Plan:
    """The steps that this spec needs.

    Args:
        loaded: the spec.
        model: its signature, and what was read from the model.
        here: what is available on this machine; nothing else is looked at.

    Raises:
        SpecInvalid: a package that every candidate needs is missing, or all candidates are refused.
    """
    candidates, refused = tried_and_refused(loaded, model.signature, here)
    plan = plan_of(loaded, model, here, candidates, refused)
    if not loaded.spec.optimize.search:
        return plan
    return with_search(plan, Search(loaded, model, here, distinct(candidates), tuple(refused)))


def plan_of(
    loaded: LoadedSpec,
    model: PlannedModel,
    here: Here,
    candidates: Sequence[Candidate],
    refused: Sequence[RefusedCandidate],
) -> Plan:
    """The steps that these candidates need.

    Args:
        loaded: the spec.
        model: its signature, and what was read from the model.
        here: what is available on this machine.
        candidates: what is tried; at least one. Equal ones count once.
        refused: what is not tried, with the reasons.

    Raises:
        ValueError: two different candidates have one name.
        NotObserved: `here` lacks a server or a package that a candidate needs.
    """
    candidates = distinct(candidates)
    inspect = inspect_step(loaded, here)
    steps: list[Step] = [
        *(() if inspect is None else (inspect,)),
        import_step(loaded, model, here),
        *variant_steps(loaded, model, candidates),
        *(verify_step(loaded, model, candidate) for candidate in candidates),
        runtime_benchmark_step(loaded, model, here, candidates),
        server_benchmark_step(loaded, model, here, candidates),
        select_step(loaded, candidates, refused),
        render_step(loaded, model, here, candidates),
        *live_steps(builds=loaded.spec.deploy.takes_image != "no"),
    ]
    return Plan(
        name=loaded.spec.metadata.name,
        steps=tuple(steps),
        refused=tuple(refused),
        project=loaded.folder,
        here=here,
        notes=plan_notes(loaded, model, here, candidates),
        model=model,
    )
