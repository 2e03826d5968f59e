"""Which candidates a spec asks for: every format and precision that its source can become, and why some can't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.optimize.cuda import refused_on_cuda
from orchestrator.optimize.formats import FORMATS, Refused, Way, variant_name
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature

__all__ = ["Candidate", "RefusedCandidate", "candidates"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant and the backend that would serve it.

    Attributes:
        convert: how the format is made from the source.
        make: how the precision is made; its function is None when the converted file is the variant.
    """

    variant: str
    format: str
    precision: str
    backend: str
    convert: Way
    make: Way


@dataclass(frozen=True, slots=True)
class RefusedCandidate:
    """A variant that is not tried at all, and why."""

    variant: str
    format: str
    precision: str
    backend: str
    reason: str


def candidates(
    spec: ModelDeployment, signature: Signature, forbidden: Mapping[str, str] = MappingProxyType({})
) -> tuple[Candidate | RefusedCandidate, ...]:
    """Everything that the spec asks for, in a fixed order, the refused ones with their reason.

    Args:
        spec: the spec.
        signature: the model's.
        forbidden: backends that may not be used → why.
    """
    return tuple(
        _candidate(spec, signature, forbidden, name, precision)
        for name in _formats(spec)
        for precision in _precisions(spec)
    )


def _formats(spec: ModelDeployment) -> tuple[str, ...]:
    """What is tried; `auto` leaves out what has no server where a server is wanted."""
    if spec.optimize.formats != "auto":
        return tuple(spec.optimize.formats)
    own = spec.model.source.kind
    return tuple(
        name
        for name, row in FORMATS.items()
        if (spec.deploy.takes_unserved or BACKENDS[row.backend].served) and not isinstance(row.convert[own], Refused)
    )


def _wants_proof(spec: ModelDeployment) -> bool:
    """Whether nothing may be taken that was not measured in a server."""
    return spec.slo.enforce and (spec.slo.p99_latency is not None or spec.slo.throughput is not None)


def _precisions(spec: ModelDeployment) -> tuple[str, ...]:
    """What is tried; int8 is calibrated on samples, so `auto` leaves it out where there are none."""
    if spec.optimize.precisions != "auto":
        return tuple(spec.optimize.precisions)
    return ("fp32", "int8") if spec.model.samples is not None else ("fp32",)


def _candidate(
    spec: ModelDeployment, signature: Signature, forbidden: Mapping[str, str], name: str, precision: str
) -> Candidate | RefusedCandidate:
    row = FORMATS[name]
    convert, make = row.convert[spec.model.source.kind], row.precisions[precision]
    variant = variant_name(name, precision)
    if isinstance(convert, Refused):
        return RefusedCandidate(variant, name, precision, row.backend, convert.reason)
    if isinstance(make, Refused):
        return RefusedCandidate(variant, name, precision, row.backend, make.reason)
    if (reason := make.not_from.get(spec.model.source.kind)) is not None:
        return RefusedCandidate(variant, name, precision, row.backend, reason)
    if spec.serving.backend not in ("auto", row.backend):
        reason = f"serving.backend is {spec.serving.backend}, and {name} is served by {row.backend}"
        return RefusedCandidate(variant, name, precision, row.backend, reason)
    if (refusal := forbidden.get(row.backend)) is not None:
        return RefusedCandidate(variant, name, precision, row.backend, refusal)
    if not BACKENDS[row.backend].served and spec.optimize.formats == "auto" and _wants_proof(spec):
        reason = (
            "`slo` is enforced, and no server could prove it for this; `slo: {enforce: false}`, or `optimize.formats` "
            "that name it, let it be tried"
        )
        return RefusedCandidate(variant, name, precision, row.backend, reason)
    if (refusal := backend(row.backend).refuses(signature)) is not None:
        return RefusedCandidate(variant, name, precision, row.backend, refusal)
    if (refusal := refused_on_cuda(spec, signature, name, precision, row.backend)) is not None:
        return RefusedCandidate(variant, name, precision, row.backend, refusal)
    return Candidate(variant, name, precision, row.backend, convert, make)
