"""The render step: writes the files of a release for the decision's winner."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.measurement import rate_text
from orchestrator.artifacts.sizing import Sizing
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.folder import write_file
from orchestrator.backends.table import backend
from orchestrator.backends.versions import installed_closure
from orchestrator.render.artifacts import render_artifacts
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import RenderParameters
from orchestrator.steps.roles import variant_role

if TYPE_CHECKING:
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import DeploymentParameters, ServingParameters

__all__ = ["render"]


def render(context: StepContext) -> dict[str, Any]:
    """Fill the output with what `render_artifacts` writes and a copy of winner.json, whose sha256 the labels name.

    Inputs are `winner`, a winner.json, `sizing`, its sizing.json, the folder of the winner's variant as `variant:NAME`, and where
    there are `samples`, an npz file that the server is warmed up with.

    Raises:
        StepError: E451, the variant is missing; E452, a value may not stand in the files; E490, more replicas are needed than
            there may be.
    """
    winner_bytes = context.inputs["winner"].read_bytes()
    winner = Winner.from_bytes(winner_bytes, Winner.FILE)
    variant = context.inputs.get(variant_role(winner.variant))
    if variant is None:
        raise StepError(
            "E451",
            f"the winner's variant {winner.variant} is missing",
            cause="the step that makes it has no result",
            remedy="run `mlo apply SPEC --replace render`",
        )
    context.progress("writing the artifacts")
    try:
        parameters = RenderParameters.from_json(context.params)
        sizing = Sizing.read_file(context.inputs["sizing"])
        _check_replicas(parameters.deployment, sizing)
        settings = _settings(context, parameters.settings, winner, hashlib.sha256(winner_bytes).hexdigest())
        image = render_artifacts(settings, parameters.deployment, parameters.image, sizing, variant, context.output)
        write_file(context.output / Winner.FILE, winner_bytes)
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


def _check_replicas(deployment: DeploymentParameters, sizing: Sizing) -> None:
    needed, most = sizing.replicas, deployment.most_replicas
    if needed is None or most is None or needed <= most:
        return
    assert sizing.proven_rate is not None, "otherwise the number is not known"
    raise StepError(
        "E490",
        f"`slo.total_throughput` needs {needed} replicas, but there may be {most}",
        cause=f"one replica is proven to hold {rate_text(sizing.proven_rate)}/s; {deployment.limited_by}"
        + (f" is {most}" if most > 1 else ""),
        remedy=f"ask for {rate_text(most * sizing.proven_rate)}/s at most, allow more replicas, or give a replica more CPUs",
        at=("slo", "total_throughput"),
    )


def _settings(
    context: StepContext, parameters: ServingParameters, winner: Winner, decision_digest: str
) -> ServingSettings:
    tools = dict(winner.tools)
    # What was not measured: the image gets what is installed here.
    served_by = backend(winner.backend)
    added = (*(served_by.grpc_tools if parameters.grpc else ()), *(served_by.traces_tools if parameters.traces else ()))
    tools |= installed_closure(added)
    return ServingSettings(
        name=parameters.name,
        backend=winner.backend,
        variant=winner.variant,
        format=winner.format,
        precision=winner.precision,
        signature=winner.signature,
        cpus=parameters.cpus,
        memory=parameters.memory,
        max_batch_size=winner.max_batch_size,
        max_delay=winner.max_delay,
        startup_seconds=winner.startup_seconds,
        drain_seconds=parameters.drain_seconds,
        model_digest=winner.model_digest,
        decision_digest=decision_digest,
        tools=tools,
        samples=context.inputs.get("samples"),
        devices=parameters.devices,
        cuda_graphs=parameters.cuda_graphs,
        batch_sizes=parameters.batch_sizes,
        grpc=parameters.grpc,
        limits=parameters.limits,
        auth=parameters.auth,
        tls=parameters.tls,
        cors_origins=parameters.cors_origins,
        traces=parameters.traces,
        options=winner.options,
    )
