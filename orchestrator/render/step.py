"""The render step: the decision's winner into the files of a release."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.winner import Winner
from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.folder import write_file
from orchestrator.render.artifacts import render_artifacts
from orchestrator.render.deployment import Deployment
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from orchestrator.steps import StepContext

__all__ = ["render"]


def render(context: StepContext) -> dict[str, Any]:
    """Fill the output with what `render_artifacts` writes and a copy of winner.json, whose sha256 the labels name.

    Inputs are `winner`, a winner.json, the folder of the winner's variant, as `variant:NAME` or `variant`, and where there
    are any `samples`, an npz file that the server is warmed up with.

    Raises:
        StepError: E451, the variant is missing; E452, a value may not stand in the files.
    """
    winner_bytes = context.inputs["winner"].read_bytes()
    winner = Winner.from_bytes(winner_bytes, Winner.FILE)
    variant = context.inputs.get(f"variant:{winner.variant}", context.inputs.get("variant"))
    if variant is None:
        raise StepError("E451", f"the picked variant {winner.variant} was not made", remedy="run `mlo apply` again")
    context.progress("writing the artifacts")
    try:
        settings = _settings(context, winner, hashlib.sha256(winner_bytes).hexdigest())
        deployment = Deployment.from_params(context.params["deployment"])
        write_file(context.output / Winner.FILE, winner_bytes)
        image = render_artifacts(settings, deployment, variant, context.output)
    except ValueError as error:
        raise StepError("E452", "the artifacts cannot be written", cause=str(error), at=("image",)) from error
    files = [path for path in context.output.rglob("*") if path.is_file()]
    return {
        "backend": settings.backend,
        "variant": settings.variant,
        "image": image,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _settings(context: StepContext, winner: Winner, decision_digest: str) -> ServingSettings:
    params = context.params["settings"]
    return ServingSettings(
        name=params["name"],
        backend=winner.backend,
        variant=winner.variant,
        format=winner.format,
        precision=winner.precision,
        signature=winner.signature,
        cpus=params["cpus"],
        memory=params["memory"],
        max_batch_size=winner.max_batch_size,
        max_delay=winner.max_delay,
        startup_seconds=winner.startup_seconds,
        drain_seconds=params["drain_seconds"],
        model_digest=winner.model_digest,
        spec_digest=params["spec_digest"],
        decision_digest=decision_digest,
        tools=winner.tools,
        samples=context.inputs.get("samples"),
        devices=params.get("devices", 0),
        cuda_graphs=params.get("cuda_graphs", False),
        batch_sizes=tuple(params.get("batch_sizes", ())),
    )
