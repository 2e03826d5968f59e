"""The steps `verify.CANDIDATE`: each candidate's outputs are verified in the runtime that will serve it."""

from __future__ import annotations

from orchestrator.backends.table import backend
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import VERIFY
from orchestrator.plan.step import Step, StepOutput
from orchestrator.plan.steps.variants import step_timeout, variant_output
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.parameters import VerifyParameters

__all__ = ["verify_step"]


def verify_step(loaded: LoadedSpec, model: PlannedModel, candidate: Candidate) -> Step:
    """The step that verifies one candidate."""
    spec = loaded.spec
    parameters = VerifyParameters(
        candidate=candidate.parameters(),
        signature=model.signature,
        gates=spec.verify.limits(candidate.variant.precision),
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
