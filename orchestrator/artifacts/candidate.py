"""What identifies a candidate in every document that has a row for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.spec.strict import Strict

__all__ = ["CandidateRow", "candidate_row"]


class CandidateRow(Strict):
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


def candidate_row(params: Mapping[str, Any]) -> CandidateRow:
    """The identity of a row of the parameter `candidates`."""
    return CandidateRow(
        candidate=params["variant"],
        variant=params["variant"],
        format=params["format"],
        precision=params["precision"],
        backend=params["backend"],
    )
