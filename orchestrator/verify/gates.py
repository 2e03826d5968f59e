"""The gates that a candidate must pass: their default limits with the reasons, and how one comparison is judged.

Documented in `docs/verify.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from orchestrator.artifacts.verdict import FLOORS, CaseKind, GateName, GateResult
from orchestrator.verify.columns import Columns
from orchestrator.verify.parity import Parity

__all__ = ["DEFAULT_GATES", "Gates", "closeness", "gates_for", "judge", "worst"]

COLUMN_ROOM = 5.0
"""The factor by which the limits of a single column are looser than those of the whole output."""


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits for one precision. None: measured, but not gated.

    Attributes:
        max_scaled_error: largest absolute error as a fraction of the output's magnitude; the default `max_abs_error` is
            computed from it.
        max_abs_error: largest absolute error, in the units of the output; set by the spec, instead of `max_scaled_error`.
        max_rel_error: largest relative error, see `Parity`.
        min_cosine: smallest cosine.
        min_agreement: smallest share of rows with the baseline's top class, or of equal integers.
        agreement_wanted: the spec sets `min_agreement`; otherwise it only applies to outputs that are known to be classes.
        noise: of the arithmetic, as a fraction of the output's magnitude; it does not count as an error of a column.
        edges_by_value: whether the values of edge inputs are gated, or only their shapes and finiteness.
    """

    max_scaled_error: float
    min_cosine: float
    min_agreement: float
    edges_by_value: bool
    noise: float = 0.0
    max_abs_error: float | None = None
    max_rel_error: float | None = None
    agreement_wanted: bool = False


DEFAULT_GATES: Mapping[str, Gates] = MappingProxyType(
    {
        # The same arithmetic in another order: deep nets stay below 1e-5 of the magnitude, while a wrong axis, padding,
        # constant or approximation (GELU by tanh) is above 1e-4.
        "fp32": Gates(max_scaled_error=1e-4, min_cosine=0.99999, min_agreement=0.999, edges_by_value=True, noise=1e-5),
        # Eight bits of mantissa: each rounding is off by up to 0.4 %, and a deep net adds some of them up.
        "bf16": Gates(max_scaled_error=0.05, min_cosine=0.995, min_agreement=0.99, edges_by_value=True),
        # Eight bits in total. Inputs beyond the calibrated range are clipped by design, so the values of edge inputs
        # say nothing about real inputs.
        "int8": Gates(max_scaled_error=0.2, min_cosine=0.99, min_agreement=0.98, edges_by_value=False),
    }
)


def gates_for(precision: str, overrides: Mapping[str, float]) -> Gates:
    """The default gates of `precision`, with the limits set in the spec's `verify:`.

    Args:
        precision: a key of `DEFAULT_GATES`.
        overrides: `max_abs_error`, `max_rel_error`, `min_cosine`, `min_top1_agreement`; absent ones keep the default.
    """
    gates = DEFAULT_GATES[precision]
    if "max_abs_error" in overrides:
        gates = replace(gates, max_abs_error=float(overrides["max_abs_error"]))
    if "max_rel_error" in overrides:
        gates = replace(gates, max_rel_error=float(overrides["max_rel_error"]))
    if "min_cosine" in overrides:
        gates = replace(gates, min_cosine=float(overrides["min_cosine"]))
    if "min_top1_agreement" in overrides:
        gates = replace(gates, min_agreement=float(overrides["min_top1_agreement"]), agreement_wanted=True)
    return gates


def judge(
    output: str,
    case: str,
    kind: CaseKind,
    parity: Parity,
    *,
    gates: Gates,
    defaults: Gates,
    classes: bool,
    columns: Columns | None = None,
) -> list[GateResult]:
    """Judge one output of one call.

    Args:
        output: its name.
        case: the call's name.
        kind: the spec's limits apply to samples; to edge inputs the default limits, which scale with the magnitude, or the
            spec's if they are looser. Cosine and agreement are about many rows, so only all samples together are gated by
            them.
        parity: the measured differences.
        gates: of the spec.
        defaults: of the precision.
        classes: whether the output is known to have a score for each class, so that the top class matters.
        columns: the worst columns on all samples; None if there are none to judge.
    """
    if parity.mismatch is not None:
        return [GateResult("shape", output, 0, 1, passed=False, case=case, detail=parity.mismatch)]
    by_value = kind != "edge" or defaults.edges_by_value
    odd = parity.not_finite if by_value else parity.new_not_finite
    results = [GateResult("finite", output, 0, odd, passed=odd == 0, case=case)]
    if not by_value:
        return results
    limits = defaults if kind == "edge" else gates
    if parity.max_abs_error is not None and parity.max_rel_error is not None:
        ceiling = limits.max_abs_error
        if ceiling is None:
            ceiling = limits.max_scaled_error * parity.magnitude
        if kind == "edge" and gates.max_abs_error is not None:
            ceiling = max(ceiling, gates.max_abs_error)
        results.append(_ceiling("max_abs_error", output, ceiling, parity.max_abs_error, case))
        if limits.max_rel_error is not None:
            results.append(_ceiling("max_rel_error", output, limits.max_rel_error, parity.max_rel_error, case))
    if kind != "samples":
        return results
    if parity.cosine is not None:
        results.append(_floor("min_cosine", output, limits.min_cosine, parity.cosine, case))
    if columns is not None:
        results += _columns(output, case, columns, gates)
    integers = parity.max_abs_error is None
    if parity.agreement is not None and (integers or classes or gates.agreement_wanted):
        results.append(_floor("min_top1_agreement", output, limits.min_agreement, parity.agreement, case))
    return results


def _columns(output: str, case: str, columns: Columns, gates: Gates) -> list[GateResult]:
    """Judge single columns, without their offset; an absolute limit of the spec already applies to every column."""
    results = []
    if gates.max_abs_error is None:
        ceiling = COLUMN_ROOM * gates.max_scaled_error
        found = _ceiling("max_column_error", output, ceiling, columns.max_error, case)
        results.append(_named(found, columns.error_column))
    floor = 1.0 - COLUMN_ROOM * (1.0 - gates.min_cosine)
    found = _floor("min_column_cosine", output, floor, columns.min_cosine, case)
    results.append(_named(found, columns.cosine_column))
    return results


def _named(result: GateResult, column: int) -> GateResult:
    return replace(result, detail=f"column {column} has {result.measured:.4g}, the limit is {result.limit:.4g}")


def closeness(result: GateResult) -> float:
    """How close a result is to its limit: 1 at the limit, more beyond it. Only for comparing results of one gate."""
    if not result.passed:
        return 1.0 + abs(result.measured - result.limit)
    if result.gate in FLOORS:
        return (1.0 - result.measured) / (1.0 - result.limit) if result.limit < 1.0 else 0.0
    return result.measured / result.limit if result.limit > 0 else 0.0


def worst(results: Iterable[GateResult]) -> list[GateResult]:
    """For each gate and output the result closest to its limit, or furthest beyond it, in order of appearance."""
    chosen: dict[tuple[str, str], GateResult] = {}
    for result in results:
        key = result.gate, result.output
        if key not in chosen or closeness(result) > closeness(chosen[key]):
            chosen[key] = result
    return list(chosen.values())


def _ceiling(gate: GateName, output: str, limit: float, measured: float, case: str) -> GateResult:
    return GateResult(gate, output, limit, measured, passed=measured <= limit, case=case)


def _floor(gate: GateName, output: str, limit: float, measured: float, case: str) -> GateResult:
    return GateResult(gate, output, limit, measured, passed=measured >= limit, case=case)
