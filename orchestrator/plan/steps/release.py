"""The steps after the choice: `render`, and the live steps `deploy` and `check`."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.machine.here import Here
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import RENDER
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.plan.steps.benchmark import batch_sizes
from orchestrator.plan.steps.variants import variant_output
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.parameters import DeploymentParameters, RenderParameters, ServingParameters
from orchestrator.steps.roles import variant_role

__all__ = ["DRAIN_SECONDS", "live_steps", "render_step"]

DRAIN_SECONDS = 5
"""How long a stopping server still answers, while its endpoints are being removed."""


def render_step(loaded: LoadedSpec, model: PlannedModel, here: Here, candidates: Sequence[Candidate]) -> Step:
    """The step that writes the files of a release."""
    spec = loaded.spec
    parameters = RenderParameters(
        deployment=DeploymentParameters(
            name=spec.metadata.name,
            labels=dict(spec.metadata.labels),
            min_replicas=spec.serving.replicas.min,
            max_replicas=spec.serving.replicas.max,
            registry=spec.image.registry,
            base=spec.image.base,
        ),
        settings=ServingParameters(
            name=spec.metadata.name,
            cpus=spec.hardware.cpus,
            memory=spec.hardware.memory,
            drain_seconds=DRAIN_SECONDS,
            spec_digest=loaded.digest,
            batch_sizes=batch_sizes(loaded, model),
            devices=spec.hardware.devices,
            cuda_graphs=bool(spec.hardware.devices) and spec.serving.cuda_graphs,
        ),
        assets=here.assets,
    )
    variants: dict[str, StepInput] = {variant_role(c.variant.name): variant_output(c.variant) for c in candidates}
    return Step(
        id="render",
        kind="render",
        function="orchestrator.render.step:render",
        revision=RENDER,
        params=parameters.as_json(),
        inputs={
            "winner": StepOutput("select", "winner.json"),
            "samples": StepOutput("import", "samples.npz"),
            **variants,
        },
        optional=frozenset(variants),
        only_winner=True,
        light=True,
        tools=("jinja2",),
        at=("image",),
    )


def live_steps() -> tuple[Step, Step]:
    """The steps that bring a release to its target and send it the golden requests."""
    rendered = StepOutput("render")
    return (
        Step("deploy", "deploy", "", 1, {}, {"rendered": rendered}, live=True, at=("deploy",)),
        Step("check", "check", "", 1, {}, {"rendered": rendered, "import": StepOutput("import")}, live=True, at=("deploy",)),
    )  # fmt: skip
