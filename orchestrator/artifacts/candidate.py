"""The identity of a candidate, as in every document about candidates."""

from __future__ import annotations

from orchestrator.spec.strict import Strict
from orchestrator.steps.parameters import CandidateParameters, RefusedParameters

__all__ = ["CandidateIdentity", "candidate_identity"]


class CandidateIdentity(Strict):
    """Identifies one candidate.

    Attributes:
        candidate: its name, such as `onnx-int8`, unique in the plan.
        variant: the variant that is served.
        format: of the variant's model file.
        precision: of the variant's arithmetic.
        backend: the backend that serves it.
    """

    candidate: str
    variant: str
    format: str
    precision: str
    backend: str


def candidate_identity(each: CandidateParameters | RefusedParameters) -> CandidateIdentity:
    """The identity of a candidate in a step's parameters."""
    return CandidateIdentity(
        candidate=each.candidate,
        variant=each.variant,
        format=each.format,
        precision=each.precision,
        backend=each.backend,
    )
