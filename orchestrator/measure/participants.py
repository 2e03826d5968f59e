"""Who takes part in the runtime benchmark: the baseline, and the candidates that were made and verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.artifacts.verdict import Verdict
from orchestrator.backends.table import backend
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, RuntimeBenchmarkParameters
from orchestrator.steps.runtime_options import session_options

__all__ = ["BASELINE", "LeftOut", "Participant", "participants"]

BASELINE = "baseline"
"""The name of the model as given, among the candidates' names."""


@dataclass(frozen=True, slots=True)
class Participant:
    """One thing to measure.

    Attributes:
        name: the candidate's name, or `BASELINE`.
        backend: what would serve it; empty for the baseline. Candidates are compared within a backend when dropping.
        opener: `module:function` that opens its runtime.
        arguments: the opener's, as JSON; see `orchestrator.frameworks.source.measure_session`.
    """

    name: str
    backend: str
    opener: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that is not measured, and why."""

    name: str
    reason: str


def participants(
    context: StepContext, parameters: RuntimeBenchmarkParameters, signature: Mapping[str, Any], threads: int
) -> tuple[list[Participant], list[LeftOut]]:
    """The baseline first, then the candidates in the order of the parameters; and those that are left out.

    Args:
        context: of the step.
        parameters: of the step.
        signature: the resolved one, as JSON.
        threads: of each runtime whose candidate does not say another number.
    """
    accelerator = {} if parameters.accelerator == "none" else {"accelerator": parameters.accelerator}
    inputs = {role: str(path) for role, path in context.inputs.items() if role == "import" or _is_source(role)}
    arguments = {
        "params": {"source": parameters.source.as_json()},
        "inputs": inputs,
        "project": str(context.project),
        "signature": signature,
        "threads": threads,
        **accelerator,
    }
    takes_part = [Participant(BASELINE, "", parameters.open_baseline, arguments)]
    left_out: list[LeftOut] = []
    for candidate in parameters.candidates:
        name = candidate.candidate
        if reason := _why_not(context, candidate):
            left_out.append(LeftOut(name, reason))
            continue
        arguments = {
            "directory": str(context.inputs[f"variant:{candidate.variant}"]),
            "signature": signature,
            "threads": candidate.options.threads_of(threads),
            **accelerator,
            **session_options(candidate.options),
        }
        opener = backend(candidate.backend).runtimes[candidate.format].function
        takes_part.append(Participant(name, candidate.backend, opener, arguments))
    return takes_part, left_out


def _is_source(role: str) -> bool:
    return role == "weights" or role.startswith("file:")


def _why_not(context: StepContext, candidate: CandidateParameters) -> str:
    name = candidate.candidate
    if f"variant:{candidate.variant}" not in context.inputs:
        return "not measured: it could not be made"
    if f"verdict:{name}" not in context.inputs:
        return "not measured: it could not be verified"
    return "" if Verdict.read(context.inputs[f"verdict:{name}"]).passed else "not measured: failed verification"
