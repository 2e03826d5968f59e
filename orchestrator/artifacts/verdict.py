"""The document of `verify`: whether a candidate passed its gates, and every measured value with its limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.spec.gates import GATES, is_floor
from orchestrator.spec.strict import Strict

__all__ = [
    "Accuracy",
    "CaseKind",
    "GateName",
    "GateResult",
    "OutputParity",
    "Verdict",
    "VerifiedCase",
    "WorstColumns",
    "distinct_numbers",
]

if TYPE_CHECKING:
    GateName = str
else:
    GateName = Literal["shape", "finite", "max_column_error", "min_column_cosine", *GATES]

CaseKind = Literal["samples", "call", "edge"]
"""All samples; a call with some of the samples; or an edge input."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate on one output in one case.

    Attributes:
        limit: in the units of `measured`; a minimum for gates called `min_...`, a maximum for the others.
        detail: the result in words; empty if the numbers suffice.
    """

    gate: GateName
    output: str
    limit: float
    measured: float
    passed: bool
    case: str
    detail: str = ""

    @property
    def numbers(self) -> tuple[str, str]:
        """The measured value and the limit in words, with as many digits as tell them apart."""
        return distinct_numbers(self.measured, self.limit)

    @property
    def comparison(self) -> str:
        """Such as `0.177 ≤ 4.711`, or `0.91 < 0.99` where it failed."""
        sign = {(True, True): "≥", (True, False): "<", (False, True): "≤", (False, False): ">"}[
            is_floor(self.gate), self.passed
        ]
        measured, limit = self.numbers
        return f"{measured} {sign} {limit}"


def distinct_numbers(measured: float, limit: float) -> tuple[str, str]:
    """Both in words, with as many digits as tell them apart: 0.99998 and 0.99999, not 1 and 1."""
    return next(
        (one, other)
        for digits in (4, 6, 9, 17)
        if (one := f"{measured:.{digits}g}") != (other := f"{limit:.{digits}g}") or measured == limit or digits == 17
    )


class WorstColumns(Strict):
    """The worst columns of an output, as deviations from the baseline's mean of each column.

    Attributes:
        judged: number of compared columns.
        max_error: the largest absolute error (above the arithmetic's noise), as a fraction of the baseline's largest
            deviation from its mean.
        error_column: the column with that error.
        min_cosine: the smallest cosine of the deviations.
        cosine_column: the column with that cosine.
    """

    judged: int
    max_error: float
    error_column: int
    min_cosine: float
    cosine_column: int


class OutputParity(Strict):
    """How one output of one call differs from the baseline's; measured by `orchestrator.verify.parity.compare`.

    Attributes:
        mismatch: why the outputs could not be compared (another shape or kind of dtype); None if they could. Otherwise
            nothing else is measured.
        not_finite: elements that are NaN or infinite on one side only, or infinite with different signs.
        new_not_finite: those of them that are finite in the baseline.
        magnitude: the largest known finite absolute value of the output; errors are scaled by it.
        max_abs_error: largest |actual - expected| over elements that are finite on both sides; None, as are the following
            measures, where it does not apply to the output.
        max_rel_error: largest |actual - expected| / max(|expected|, RELATIVE_FLOOR x magnitude).
        cosine: of both outputs as flat vectors, in [-1, 1]; 1.0 for two zero vectors, 0.0 if only one is zero.
        row_cosine: the smallest cosine of a row, which is everything that the output has for one sample; not measured on edge
            inputs, nor of rows of one number or of nearly nothing but zeros.
        farthest_row: the row with that cosine.
        top1_agreement: for floats of shape [rows, classes] with two or more classes, the share of rows whose top class is a
            top class of the baseline (ties count); for integers, booleans and texts the share of equal elements. A row that
            is not finite agrees if it is equal.
        rows: the number of rows or elements in `top1_agreement`.
        columns: the worst columns, on all samples.
    """

    mismatch: str | None = None
    not_finite: int = 0
    new_not_finite: int = 0
    magnitude: float = 0.0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    cosine: float | None = None
    row_cosine: float | None = None
    farthest_row: int | None = None
    top1_agreement: float | None = None
    rows: int = 0
    columns: WorstColumns | None = None


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
    VERSION: ClassVar[int] = 3
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
