"""The steps after the choice: `render`, and the live steps `deploy` and `check`."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.machine.packages import install_hint
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.revisions import RENDER
from orchestrator.plan.step import Step, StepInput, StepOutput
from orchestrator.plan.steps.benchmark import batch_sizes
from orchestrator.plan.steps.image import image_parameters
from orchestrator.plan.steps.source import union
from orchestrator.plan.steps.variants import variant_output
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import (
    DeploymentParameters,
    RenderParameters,
    ServingParameters,
)
from orchestrator.steps.roles import variant_role
from orchestrator.steps.server_options import ServerAuth, ServerLimits, ServerTls, ServerTraces

__all__ = ["DRAIN_SECONDS", "live_steps", "render_step", "require_server_tools", "server_auth", "server_tls"]

_LOAD_TOOLS = ("h2",)
"""What the load generator needs for gRPC."""
_TLS_TOOLS = ("cryptography",)
"""What checks a certificate, and makes one for measurements."""

DRAIN_SECONDS = 5
"""How long a stopping server still answers, while its endpoints are being removed."""


def render_step(loaded: LoadedSpec, model: PlannedModel, here: Here, candidates: Sequence[Candidate]) -> Step:
    """The step that writes the files of a release."""
    spec = loaded.spec
    most, limited_by = _most_replicas(loaded)
    parameters = RenderParameters(
        deployment=DeploymentParameters(
            name=spec.metadata.name,
            labels=dict(spec.metadata.labels),
            min_replicas=spec.serving.replicas.min,
            max_replicas=spec.serving.replicas.max,
            registry=spec.image.registry,
            base=spec.image.base,
            most_replicas=most,
            limited_by=limited_by,
        ),
        settings=ServingParameters(
            name=spec.metadata.name,
            cpus=spec.hardware.cpus,
            memory=spec.hardware.memory,
            drain_seconds=DRAIN_SECONDS,
            batch_sizes=batch_sizes(loaded, model),
            devices=spec.hardware.devices,
            cuda_graphs=bool(spec.hardware.devices) and spec.serving.cuda_graphs,
            grpc=spec.serving.offers_grpc,
            limits=ServerLimits(**spec.serving.limits.model_dump()),
            auth=server_auth(spec),
            tls=server_tls(spec),
            cors_origins=() if spec.serving.cors is None else tuple(spec.serving.cors.origins),
            traces=None if spec.serving.traces is None else ServerTraces(**spec.serving.traces.model_dump()),
        ),
        image=image_parameters(spec, here),
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
            "sizing": StepOutput("select", "sizing.json"),
            "samples": StepOutput("import", "samples.npz"),
            **variants,
        },
        optional=frozenset(variants),
        only_winner=True,
        light=True,
        tools=union(("jinja2",), _grpc_tools(spec), _traces_tools(spec)),
        at=("image",),
    )


def _most_replicas(loaded: LoadedSpec) -> tuple[int | None, str]:
    """How many replicas `slo.total_throughput` may need, and what says so; None and nothing if it is open."""
    if loaded.spec.slo.total_throughput is None:
        return None, ""
    if not loaded.spec.deploy.replicated:
        return 1, f"the target `{loaded.spec.deploy.target}` runs one"
    if loaded.origin("serving.replicas.max") is not None:
        return loaded.spec.serving.replicas.max, "`serving.replicas.max`"
    bounds = loaded.bounds
    if bounds is not None and bounds.limits.replicas is not None:
        return bounds.limits.replicas, "the platform's limit"
    return None, ""


def server_auth(spec: ModelDeployment) -> ServerAuth | None:
    """Where the server will read the tokens that it accepts; None if it asks for none."""
    auth = spec.serving.auth
    return None if auth is None else ServerAuth(auth.token_file, auth.secret or f"{spec.metadata.name}-token")


def server_tls(spec: ModelDeployment) -> ServerTls | None:
    """Where the server will read its certificate; None for plain HTTP."""
    tls = spec.serving.tls
    return None if tls is None else ServerTls(tls.certificate, tls.key, tls.secret or f"{spec.metadata.name}-tls")


def require_server_tools(loaded: LoadedSpec, here: Here) -> None:
    """Check that what the spec asks the servers for is installed; images get the versions that are installed here.

    Raises:
        SpecInvalid: E202, a package is missing.
    """
    serving = loaded.spec.serving
    grpc = _grpc_tools(loaded.spec)
    if grpc and "grpc" in serving.wires:
        grpc = (*grpc, *_LOAD_TOOLS)
    tls = _TLS_TOOLS if serving.tls is not None and not loaded.spec.only_for_devices else ()
    grpc_key = "grpc" if serving.grpc else "wire"
    for key, tools in ((grpc_key, grpc), ("traces", _traces_tools(loaded.spec)), ("tls", tls)):
        if lacking := here.missing(tools):
            raise SpecInvalid(
                Diagnostic(
                    code="E202",
                    message=f"`serving.{key}` needs {', '.join(lacking)}, which is not installed",
                    span=loaded.span(("serving", key)),
                    remedy=install_hint(lacking),
                )
            )


def _grpc_tools(spec: ModelDeployment) -> tuple[str, ...]:
    """The packages that the servers of this spec need for gRPC; none if it does not ask for it."""
    if not spec.serving.offers_grpc or spec.only_for_devices:
        return ()
    return union(*(backend(name).grpc_tools for name in BACKENDS))


def _traces_tools(spec: ModelDeployment) -> tuple[str, ...]:
    """The packages that the servers of this spec need to send spans; none if it does not ask for it."""
    if spec.serving.traces is None or spec.only_for_devices:
        return ()
    return union(*(backend(name).traces_tools for name in BACKENDS))


def live_steps(*, builds: bool) -> tuple[Step, ...]:
    """The steps that build the image if the target takes one, bring a release to its target and send it the golden requests."""
    rendered = StepOutput("render")
    build = Step("build", "build", "", 1, {}, {"rendered": rendered}, live=True, at=("image",))
    return (
        *([build] if builds else []),
        Step("deploy", "deploy", "", 1, {}, {"rendered": rendered}, live=True, at=("deploy",)),
        Step("check", "check", "", 1, {}, {"rendered": rendered, "import": StepOutput("import")}, live=True, at=("deploy",)),
    )  # fmt: skip
