"""The steps `verify.CANDIDATE`: each candidate's outputs are proven in the runtime that will serve it."""

from __future__ import annotations

from orchestrator.backends.table import backend
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import VERIFY
from orchestrator.plan.step import Step, StepOutput
from orchestrator.plan.steps.variants import step_timeout, variant_output
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import VerifyParameters

__all__ = ["verify_step"]


def verify_step(loaded: LoadedSpec, model: PlannedModel, candidate: Candidate) -> Step:
    """The step that proves one candidate."""
    spec = loaded.spec
    parameters = VerifyParameters(
        candidate=candidate.parameters(),
        signature=model.signature,
        gates=_gates(spec, candidate.variant.precision),
        accelerator=spec.hardware.accelerator,
    )
    return Step(
        id=f"verify.{candidate.name}",
        kind="verify",
        function="orchestrator.verify.step:verify",
        revision=VERIFY,
        params=parameters.as_json(),
        inputs={"import": StepOutput("import"), "variant": variant_output(candidate.variant)},
        tools=backend(candidate.backend).runtimes[candidate.variant.format].tools,
        machine=True,
        accelerator=parameters.accelerator,
        candidate=candidate.name,
        at=("verify",),
        timeout=step_timeout(loaded),
    )


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
