"""Which of a spec's candidates can be tried on this machine, and why the others can't."""

from __future__ import annotations

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.machine.packages import NoCuda, install_hint
from orchestrator.optimize.candidates import candidates
from orchestrator.optimize.variants import Candidate, RefusedCandidate
from orchestrator.plan.steps.release import require_grpc_tools
from orchestrator.plan.steps.source import require_source_tools, union
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.signature import Signature

__all__ = ["forbidden_backends", "tried_and_refused"]


def tried_and_refused(
    loaded: LoadedSpec, signature: Signature, here: Here
) -> tuple[tuple[Candidate, ...], tuple[RefusedCandidate, ...]]:
    """The candidates to try, and those refused; a missing package refuses a candidate.

    Raises:
        SpecInvalid: E202, the source cannot be read with what is installed; E201, no candidate is left.
    """
    require_source_tools(loaded, here)
    require_grpc_tools(loaded, here)
    tried: list[Candidate] = []
    refused: list[RefusedCandidate] = []
    remedies: dict[str, None] = {}
    lacking: set[str] = set()
    for each in candidates(loaded.spec, signature, forbidden_backends(loaded)):
        if isinstance(each, RefusedCandidate):
            refused.append(each)
        elif absent := here.missing(_tools(each)):
            lacking.update(absent)
            refused.append(_refuse(each, f"{', '.join(absent)} not installed: {install_hint(absent)}"))
        elif builds := _cpu_builds(each, here):
            remedies[builds[0].remedy] = None
            refused.append(_refuse(each, builds[0].reason))
        else:
            tried.append(each)
    if not tried:
        raise SpecInvalid(
            Diagnostic(
                code="E201",
                message="no candidate can be tried",
                span=loaded.span(("optimize",)),
                cause="every format and precision that the spec allows is refused",
                remedy=install_hint(tuple(sorted(lacking)))
                if lacking
                else "; ".join(sorted(remedies)) or _allow_more(loaded),
                notes=tuple(f"{r.candidate}: {r.reason}" for r in refused),
            )
        )
    return tuple(tried), tuple(refused)


def _allow_more(loaded: LoadedSpec) -> str:
    wire = "" if loaded.spec.serving.wire == "auto" else ", or `serving.wire: auto`"
    return f"allow more formats or precisions under `optimize:`, or another `serving.backend`{wire}"


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


def _cpu_builds(candidate: Candidate, here: Here) -> list[NoCuda]:
    """The packages needed to run it that are built for CPUs only, where the spec asks for CUDA devices."""
    if here.cuda is None:
        return []
    return [here.cuda.cpu_builds[name] for name in _running_tools(candidate) if name in here.cuda.cpu_builds]
