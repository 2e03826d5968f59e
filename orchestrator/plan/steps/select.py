"""The step `select`: every candidate's fate, and the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.optimize.variants import Candidate, RefusedCandidate
from orchestrator.plan.revisions import SELECT
from orchestrator.plan.step import Step, StepOutput
from orchestrator.plan.steps.benchmark import candidate_outputs, service_level
from orchestrator.plan.steps.source import union
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import RefusedParameters, SearchedParameters, SelectParameters
from orchestrator.steps.roles import verdict_role

__all__ = ["Searched", "select_step"]


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search adds to a decision.

    Attributes:
        fates: candidate → how the search ended for it, for those that are no finalists.
        unverified: names of candidates without a step that verifies them.
        not_made: candidates without any steps.
        notes: a sentence each, without a full stop.
    """

    fates: Mapping[str, SearchedParameters] = field(default_factory=dict)
    unverified: frozenset[str] = frozenset()
    not_made: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()


def select_step(
    loaded: LoadedSpec,
    candidates: Sequence[Candidate],
    refused: Sequence[RefusedCandidate],
    searched: Searched | None = None,
) -> Step:
    """The step that chooses among all candidates.

    Args:
        loaded: the spec.
        candidates: that have steps.
        refused: that are not tried.
        searched: what a search found; None where there is none.
    """
    spec = loaded.spec
    searched = searched or Searched()
    everyone = (*candidates, *searched.not_made)
    parameters = SelectParameters(
        candidates=tuple(c.parameters() for c in everyone),
        steps={c.name: c.steps for c in everyone},
        refused=tuple(
            RefusedParameters(r.candidate, r.variant, r.format, r.precision, r.backend, r.reason) for r in refused
        ),
        slo=service_level(spec),
        objective=spec.optimize_for,
        source=spec.model.source.kind,
        cpus=spec.hardware.cpus,
        memory=spec.hardware.memory,
        price_per_hour=spec.hardware.price_per_hour,
        runtime_level=_runtime_level(spec),
        accelerator=spec.hardware.accelerator,
        searched=searched.fates,
        search_notes=searched.notes,
    )
    without = {verdict_role(name) for name in searched.unverified}
    inputs = {role: source for role, source in candidate_outputs(candidates).items() if role not in without}
    return Step(
        id="select",
        kind="select",
        function="orchestrator.select.step:select",
        revision=SELECT,
        params=parameters.as_json(),
        inputs={
            "import": StepOutput("import"),
            **inputs,
            "runtime": StepOutput("benchmark.runtime"),
            "server": StepOutput("benchmark.server"),
        },
        optional=frozenset({*inputs, "runtime", "server"}),  # with nobody to measure, they are skipped
        at=("slo",),
        gathers_fates=True,
        light=True,
        tools=union(*(backend(name).tools for name in sorted({c.backend for c in candidates}))),
    )


def _runtime_level(spec: ModelDeployment) -> tuple[str, ...]:
    """Backends that may be chosen by their runtimes' figures where their servers cannot be measured."""
    served = not spec.deploy.takes_unserved
    return tuple(name for name in BACKENDS if backend(name).runtime_decides(served=served))
