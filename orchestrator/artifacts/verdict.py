"""The document of `verify`: whether a candidate passed its gates, and every measured value with its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.spec.strict import Strict

__all__ = [
    "FLOORS",
    "Accuracy",
    "CaseKind",
    "GateName",
    "GateResult",
    "OutputParity",
    "Verdict",
    "VerifiedCase",
    "WorstColumns",
]

GateName = Literal[
    "shape",
    "finite",
    "max_abs_error",
    "max_rel_error",
    "min_cosine",
    "max_column_error",
    "min_column_cosine",
    "min_top1_agreement",
]
FLOORS: frozenset[GateName] = frozenset({"min_cosine", "min_column_cosine", "min_top1_agreement"})
"""Gates whose limit is a minimum; the limits of all others are maxima."""

CaseKind = Literal["samples", "call", "edge"]
"""All samples; a call with some of the samples; or an edge input."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate on one output in one case.

    Attributes:
        limit: in the units of `measured`; a floor for the gates in `FLOORS`, a ceiling for the others.
        detail: the result in words; empty if the numbers suffice.
    """

    gate: GateName
    output: str
    limit: float
    measured: float
    passed: bool
    case: str
    detail: str = ""


class WorstColumns(Strict):
    """The worst columns of an output; see `orchestrator.verify.columns.Columns`."""

    judged: int
    max_error: float
    error_column: int
    min_cosine: float
    cosine_column: int


class OutputParity(Strict):
    """How one output differs from the baseline's; see `orchestrator.verify.parity.Parity`.

    Attributes:
        mismatch: why the outputs could not be compared; None if they could. Numbers that do not apply are None.
    """

    mismatch: str | None
    not_finite: int | None
    magnitude: float | None
    max_abs_error: float | None
    max_rel_error: float | None
    cosine: float | None
    top1_agreement: float | None
    columns: WorstColumns | None


class VerifiedCase(Strict):
    """One comparison with the baseline, with all outputs by name."""

    case: str
    kind: CaseKind
    outputs: Mapping[str, OutputParity]


class Accuracy(Strict):
    """The share of samples whose top class is their label."""

    baseline: float
    variant: float


class Verdict(Document):
    """The result of `verify`.

    Attributes:
        gates: for each gate and output the result closest to its limit, or furthest beyond it.
        samples: whether the user provided the samples.
        rows: number of samples.
        accuracy: by output, for outputs that are known to be classes; never gated.
    """

    NAME: ClassVar[str] = "verdict"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "verdict.json"

    candidate: str
    variant: str
    passed: bool
    gates: tuple[GateResult, ...]
    cases: tuple[VerifiedCase, ...]
    samples: SamplesKind
    rows: int
    runtime: RuntimeFacts
    accuracy: Mapping[str, Accuracy]
