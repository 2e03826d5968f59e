"""Which of a spec's candidates can be tried on this machine and run by its target, and why the others can't."""

from __future__ import annotations

from orchestrator.backends.table import BACKENDS, backend, backends_of
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.machine.packages import NoCuda, install_hint
from orchestrator.optimize.candidates import candidates
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.transform import Unsupported
from orchestrator.optimize.variants import Candidate, RefusedCandidate
from orchestrator.plan.steps.release import require_server_tools
from orchestrator.plan.steps.source import require_source_tools, union
from orchestrator.process.memory import format_bytes
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.quantities import size_text
from orchestrator.spec.signature import Signature
from orchestrator.targets.table import TARGETS

__all__ = ["forbidden_backends", "tried_and_refused", "unstartable_backends"]


def tried_and_refused(
    loaded: LoadedSpec, signature: Signature, here: Here
) -> tuple[tuple[Candidate, ...], tuple[RefusedCandidate, ...]]:
    """The candidates to try, and those refused: a missing package refuses a candidate, and so does a server that the target cannot start.

    Raises:
        SpecInvalid: E202, the source cannot be read with what is installed; E201, no candidate is left.
    """
    require_source_tools(loaded, here)
    require_server_tools(loaded, here)
    tried: list[Candidate] = []
    refused: list[RefusedCandidate] = []
    remedies: dict[str, None] = {}
    lacking: set[str] = set()
    unstartable = unstartable_backends(loaded, here)
    for each in candidates(loaded.spec, signature, forbidden_backends(loaded)):
        if isinstance(each, RefusedCandidate):
            refused.append(each)
        elif absent := here.missing(_tools(each)):
            lacking.update(absent)
            refused.append(_refuse(each, f"{', '.join(absent)} not installed: {install_hint(absent)}"))
        elif reason := _too_little_memory(each, loaded, here):
            remedies[_MORE_MEMORY] = None
            refused.append(_refuse(each, f"{reason}: {_MORE_MEMORY}"))
        elif builds := _cpu_builds(each, here):
            remedies[builds[0].remedy] = None
            refused.append(_refuse(each, builds[0].reason))
        elif each.backend in unstartable:
            refused.append(_refuse(each, unstartable[each.backend]))
        else:
            tried.append(each)
    if not tried:
        allow = _or_elsewhere(loaded) if any(r.backend in unstartable for r in refused) else _allow_more(loaded)
        raise SpecInvalid(
            Diagnostic(
                code="E201",
                message="no candidate can be tried",
                span=loaded.span(
                    ("hardware", "memory") if not lacking and set(remedies) == {_MORE_MEMORY} else ("optimize",)
                ),
                cause="every format and precision that the spec allows is refused",
                remedy="; ".join([*([install_hint(tuple(sorted(lacking)))] if lacking else []), *sorted(remedies)])
                or allow,
                notes=tuple(f"{r.candidate}: {r.reason}" for r in refused),
            )
        )
    return tuple(tried), tuple(refused)


def _allow_more(loaded: LoadedSpec) -> str:
    spec = loaded.spec
    ways = []
    if (spec.optimize.formats, spec.optimize.precisions) != ("auto", "auto"):
        ways.append("allow more formats or precisions under `optimize:`")
    ways += [f"set `serving.{key}: auto`" for key in ("backend", "wire") if getattr(spec.serving, key) != "auto"]
    return ", or ".join(ways) or "change the model as the notes say, or give it in another format"


def _or_elsewhere(loaded: LoadedSpec) -> str:
    """What to do where a server is lacking: install it, allow a format of another one, or start none here."""
    spec = loaded.spec
    others = [
        name
        for name, row in FORMATS.items()
        if spec.optimize.formats != "auto"
        and name not in spec.optimize.formats
        and any(BACKENDS[each].served for each in backends_of(name))
        and not isinstance(row.convert[spec.model.source.kind], Unsupported)
    ]
    ways = ["install what is missing"]
    if others:
        ways.append(f"allow {' or '.join(others)} in `optimize.formats`")
    if spec.serving.backend != "auto":
        ways.append("set `serving.backend: auto`")
    *some, last = (f"`{name}`" for name, row in TARGETS.items() if not row.section.starts_here)
    return f"{', '.join(ways)}, or start the server elsewhere: `deploy.target` may be {', '.join(some)} or {last}"


def unstartable_backends(loaded: LoadedSpec, here: Here) -> dict[str, str]:
    """The backends whose server the target would have to start on this machine and cannot → why, and what to do."""
    deploy = loaded.spec.deploy
    if not deploy.starts_here:
        return {}
    return {
        name: f"`deploy.target: {deploy.target}` cannot start {name} on this machine: {server.lacking}; {server.remedy}"
        for name, server in here.servers.items()
        if server.lacking
    }


def forbidden_backends(loaded: LoadedSpec) -> dict[str, str]:
    """The backends that the platform does not allow → why, with the rule's place."""
    bounds = loaded.bounds
    if bounds is None or bounds.rules.backends is None:
        return {}
    rule = f"{bounds.shown}:{bounds.line_of('rules', 'backends')}"
    return {
        name: f"the platform does not allow {name} ({rule})" for name in BACKENDS if name not in bounds.rules.backends
    }


def _refuse(candidate: Candidate, reason: str) -> RefusedCandidate:
    variant = candidate.variant
    return RefusedCandidate(candidate.name, variant.name, variant.format, variant.precision, candidate.backend, reason)


def _tools(candidate: Candidate) -> tuple[str, ...]:
    variant = candidate.variant
    return union(
        variant.conversion.tools, *(each.transform.tools for each in variant.passes), _running_tools(candidate)
    )


def _running_tools(candidate: Candidate) -> tuple[str, ...]:
    """The packages that run the candidate, rather than make it."""
    chosen = backend(candidate.backend)
    return union(chosen.runtimes[candidate.variant.format].tools, chosen.tools)


_MORE_MEMORY = "raise `hardware.memory`"

_STORED = {"fp32": 1.0, "bf16": 0.5, "fp16": 0.5, "int8": 0.25, "int4": 0.125}
"""The size of weights in a precision, as a fraction of their size as they are given."""


def _too_little_memory(candidate: Candidate, loaded: LoadedSpec, here: Here) -> str:
    """Why it cannot be served with `hardware.memory`, as far as that is certain before it is made; empty if it is not.

    The weights of a model for CPUs lie in the memory of its server. Those for devices are left to the device.
    """
    memory = loaded.spec.hardware.memory
    if not BACKENDS[candidate.backend].served:
        return ""
    least = backend(candidate.backend).least_memory
    if least > memory:
        return f"its server needs at least {format_bytes(least)} before it loads a model, and `hardware.memory` is {size_text(memory)}"
    weights = int((here.weights_bytes or 0) * _STORED[candidate.variant.precision])
    if weights > memory and not loaded.spec.hardware.devices:
        return f"its weights alone have {format_bytes(weights)}, and `hardware.memory` is {size_text(memory)}"
    return ""


def _cpu_builds(candidate: Candidate, here: Here) -> list[NoCuda]:
    """The packages needed to run it that are built for CPUs only, where the spec asks for CUDA devices."""
    if here.cuda is None:
        return []
    return [here.cuda.cpu_builds[name] for name in _running_tools(candidate) if name in here.cuda.cpu_builds]
