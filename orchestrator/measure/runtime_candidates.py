"""What the runtime benchmark measures: the baseline, and the candidates that were converted and verified."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.verdict import Verdict
from orchestrator.backends.table import backend
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import Accelerator, CandidateParameters, RuntimeBenchmarkParameters
from orchestrator.steps.roles import is_source, variant_role, verdict_role
from orchestrator.steps.runtime_options import session_options

__all__ = ["BASELINE", "LeftOut", "RuntimeCandidate", "converted_candidates", "runtime_candidates"]

BASELINE = "baseline"
"""The name of the original model, among the candidates' names."""


@dataclass(frozen=True, slots=True)
class RuntimeCandidate:
    """A candidate, or the baseline, as the runtime benchmark opens it.

    Attributes:
        name: the candidate's name, or `BASELINE`.
        backend: what would serve it; empty for the baseline. Only candidates of the same backend can dominate each other.
        opener: `module:function` that opens its runtime.
        arguments: of the opener, as JSON; see `orchestrator.frameworks.source.measure_session`.
        instances: copies of the model that are called at once, as a busy server does.
    """

    name: str
    backend: str
    opener: str
    arguments: Mapping[str, Any]
    instances: int = 1


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that is not measured, and the reason."""

    name: str
    reason: str


def runtime_candidates(
    context: StepContext, parameters: RuntimeBenchmarkParameters, signature: Mapping[str, Any], threads: int
) -> tuple[list[RuntimeCandidate], list[LeftOut]]:
    """What is measured: the baseline, then the candidates in the order of the parameters. And what is left out.

    Args:
        context: of the step.
        parameters: of the step.
        signature: the resolved signature, as JSON.
        threads: for each runtime, unless the candidate's options set another number.
    """
    accelerator = {} if parameters.accelerator == "none" else {"accelerator": parameters.accelerator}
    inputs = {role: str(path) for role, path in context.inputs.items() if role == "import" or is_source(role)}
    arguments = {
        "source": parameters.source.as_json(),
        "inputs": inputs,
        "project": str(context.project),
        "signature": signature,
        "threads": threads,
        **accelerator,
    }
    baseline = RuntimeCandidate(BASELINE, "", parameters.open_baseline, arguments)
    included, left_out = converted_candidates(
        context, parameters.candidates, signature, threads, accelerator=parameters.accelerator
    )
    return [baseline, *included], left_out


def converted_candidates(
    context: StepContext,
    candidates: Sequence[CandidateParameters],
    signature: Mapping[str, Any],
    threads: int,
    *,
    accelerator: Accelerator,
    unverified: Collection[str] = (),
) -> tuple[list[RuntimeCandidate], list[LeftOut]]:
    """Those of the candidates that are measured, in their order; and those that are left out.

    Args:
        context: of the step.
        candidates: to measure.
        signature: the resolved signature, as JSON.
        threads: as above.
        accelerator: what the models run on.
        unverified: names of candidates that need no verdict.
    """
    chosen = {} if accelerator == "none" else {"accelerator": accelerator}
    included: list[RuntimeCandidate] = []
    left_out: list[LeftOut] = []
    for candidate in candidates:
        name = candidate.candidate
        if reason := _exclusion_reason(context, candidate, unverified):
            left_out.append(LeftOut(name, reason))
            continue
        arguments = {
            "directory": str(context.inputs[variant_role(candidate.variant)]),
            "signature": signature,
            "threads": candidate.options.threads_of(threads),
            **chosen,
            **session_options(candidate.options),
        }
        opener = backend(candidate.backend).runtimes[candidate.format].function
        included.append(RuntimeCandidate(name, candidate.backend, opener, arguments, candidate.options.instances))
    return included, left_out


def _exclusion_reason(context: StepContext, candidate: CandidateParameters, unverified: Collection[str]) -> str:
    name = candidate.candidate
    if variant_role(candidate.variant) not in context.inputs:
        return "not measured: its conversion failed"
    if name in unverified:
        return ""
    if verdict_role(name) not in context.inputs:
        return "not measured: its verification did not finish"
    return "" if Verdict.read(context.inputs[verdict_role(name)]).passed else "not measured: it failed verification"
