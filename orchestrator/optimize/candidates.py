"""Combines formats, precisions and backends into candidates, and refuses impossible combinations with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.backends.folder import least_body
from orchestrator.backends.table import BACKENDS, backend, backends_of, serving_backend
from orchestrator.optimize.combinations import runs_on
from orchestrator.optimize.cuda import refused_on_cuda
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.transform import Unsupported
from orchestrator.optimize.variants import Candidate, Pass, RefusedCandidate, Variant
from orchestrator.spec.gates import Precision
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.quantities import size_text
from orchestrator.spec.signature import Signature

__all__ = ["candidates", "refusal", "wanted_backends"]


def candidates(
    spec: ModelDeployment, signature: Signature, forbidden: Mapping[str, str] = MappingProxyType({})
) -> tuple[Candidate | RefusedCandidate, ...]:
    """All candidates that the spec requests, in a fixed order; and the refused ones with the reason.

    Args:
        spec: the spec.
        signature: of the model.
        forbidden: backends that may not be used → the reason.
    """
    return tuple(
        _candidate(spec, signature, forbidden, format_name, precision, served_by)
        for format_name in _formats(spec)
        for precision in _precisions(spec)
        for served_by in _backends(spec, format_name)
    )


def wanted_backends(spec: ModelDeployment) -> frozenset[str]:
    """The backends that may serve a candidate of this spec."""
    return frozenset(each for name in _formats(spec) for each in _backends(spec, name))


def refusal(
    candidate: Candidate, spec: ModelDeployment, signature: Signature, forbidden: Mapping[str, str]
) -> str | None:
    """Why a candidate whose variant can be made is not tried; None if it is."""
    variant, name = candidate.variant, candidate.backend
    if spec.serving.backend not in ("auto", name):
        served_by = " or ".join(backends_of(variant.format))
        return f"serving.backend is {spec.serving.backend}, but {variant.format} is served by {served_by}"
    if (reason := forbidden.get(name)) is not None:
        return reason
    if not BACKENDS[name].served and spec.optimize.formats == "auto" and _wants_proof(spec):
        return (
            "`slo` is enforced, and no server can prove it for this format; to try it, set `slo: {enforce: false}` "
            "or name it in `optimize.formats`"
        )
    if not runs_on(variant, name):
        others = " and ".join(other for other in backends_of(variant.format) if runs_on(variant, other))
        return f"{name} does not run what {variant.passes[-1].name} makes of the model; {others} does"
    chosen = backend(name)
    if unknown := [option for option in candidate.options.changed() if option not in chosen.options]:
        return f"{name} has no option `{unknown[0]}`"
    if candidate.options.batching is not None and spec.serving.batching != "auto":
        return "`serving.batching` sets another batching"
    if candidate.options.execution_provider is not None and spec.hardware.devices:
        return "`hardware.accelerator` sets the execution provider"
    if (reason := chosen.refuses(signature)) is not None:
        return reason
    enforced = [tensor.name for tensor in signature.inputs if tensor.allowed is not None and tensor.allowed.enforce]
    if enforced and not chosen.enforces:
        others = " and ".join(other for other in BACKENDS if backend(other).enforces)
        return (
            f"`inputs` asks to enforce what `{enforced[0]}` may hold, but {name} takes any value; {others} enforce it"
        )
    if BACKENDS[name].served and (reason := _refused_settings(spec, signature, name)) is not None:
        return reason
    if spec.serving.grpc and BACKENDS[name].served and not chosen.grpc_tools:
        others = " and ".join(other for other in BACKENDS if backend(other).grpc_tools)
        return f"`serving.grpc` is true, but {name} is served over HTTP alone; {others} also offer gRPC"
    if BACKENDS[name].served and not set(serving_backend(name).wires) & set(spec.serving.wires):
        return f"`serving.wire` is {spec.serving.wire}, but {name} takes {' or '.join(serving_backend(name).wires)}"
    return refused_on_cuda(spec, signature, variant.format, variant.precision, name)


def _refused_settings(spec: ModelDeployment, signature: Signature, name: str) -> str | None:
    """Why the server cannot be set up as `serving:` asks; None if it can."""
    for key in spec.serving.own_settings:
        if key not in backend(name).own_settings:
            others = " and ".join(other for other in BACKENDS if key in backend(other).own_settings)
            return f"`serving.{key}` is set, but mlo cannot set it for {name}; {others} obey it"
    limit, least = spec.serving.limits.max_body, least_body(signature)
    if limit is not None and limit < least:
        needed = size_text(-(-least // 2**10) * 2**10)
        return f"`serving.limits.max_body` is {size_text(limit)}, but the smallest request needs up to {needed} as JSON"
    return None


def _formats(spec: ModelDeployment) -> tuple[str, ...]:
    """The formats to try; `auto` omits those without a server if the target needs one."""
    if spec.optimize.formats != "auto":
        return tuple(spec.optimize.formats)
    own = spec.model.source.kind
    return tuple(
        name
        for name, row in FORMATS.items()
        if (spec.deploy.takes_unserved or any(BACKENDS[each].served for each in backends_of(name)))
        and not isinstance(row.convert[own], Unsupported)
    )


def _backends(spec: ModelDeployment, format_name: str) -> tuple[str, ...]:
    """The backends to try with the format: the one in the spec, otherwise all."""
    backends = backends_of(format_name)
    if spec.serving.backend in backends:
        return (spec.serving.backend,)
    return backends if spec.serving.backend == "auto" else backends[:1]


def _wants_proof(spec: ModelDeployment) -> bool:
    """Whether only candidates measured in a server may win."""
    return spec.slo.enforce and (spec.slo.p99_latency is not None or spec.slo.throughput is not None)


def _precisions(spec: ModelDeployment) -> tuple[Precision, ...]:
    """The precisions to try; int8 is calibrated on samples, so `auto` omits it if there are none."""
    if spec.optimize.precisions != "auto":
        return tuple(spec.optimize.precisions)
    return ("fp32", "int8") if spec.model.samples is not None else ("fp32",)


def _candidate(
    spec: ModelDeployment,
    signature: Signature,
    forbidden: Mapping[str, str],
    format_name: str,
    precision: Precision,
    served_by: str,
) -> Candidate | RefusedCandidate:
    row, kind = FORMATS[format_name], spec.model.source.kind
    conversion, make = row.convert[kind], row.precisions[precision]
    name = f"{format_name}-{precision}"
    shown = name if served_by == backends_of(format_name)[0] else f"{name}@{served_by}"
    for transform in (conversion, make):
        if isinstance(transform, Unsupported):
            return RefusedCandidate(shown, name, format_name, precision, served_by, transform.reason)
        if (reason := transform.not_from.get(kind)) is not None:
            return RefusedCandidate(shown, name, format_name, precision, served_by, reason)
    assert not isinstance(conversion, Unsupported)
    assert not isinstance(make, Unsupported)
    passes = () if make.function is None else (Pass(precision, make),)
    candidate = Candidate(Variant(format_name, conversion, passes, precision), served_by)
    if (reason := refusal(candidate, spec, signature, forbidden)) is not None:
        return RefusedCandidate(shown, name, format_name, precision, served_by, reason)
    return candidate
