"""What identifies a candidate in every document that has a row for each."""

from __future__ import annotations

from orchestrator.spec.strict import Strict
from orchestrator.steps.parameters import CandidateParameters, RefusedParameters

__all__ = ["CandidateIdentity", "candidate_identity"]


class CandidateIdentity(Strict):
    """The base of a row about one candidate.

    Attributes:
        candidate: its name, such as `onnx-int8`; no other candidate of the plan has it.
        variant: the variant that it serves.
        format: of the variant's model file.
        precision: of the variant's arithmetic.
        backend: what serves it.
    """

    candidate: str
    variant: str
    format: str
    precision: str
    backend: str


def candidate_identity(each: CandidateParameters | RefusedParameters) -> CandidateIdentity:
    """The identity of a candidate that a step was given."""
    return CandidateIdentity(
        candidate=each.candidate,
        variant=each.variant,
        format=each.format,
        precision=each.precision,
        backend=each.backend,
    )
