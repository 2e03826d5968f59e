"""Judges one comparison by the gates of `spec/gates.py`, with the limits that the spec sets and the defaults for the rest.

Documented in `docs/verify.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.artifacts.verdict import CaseKind, GateName, GateResult, OutputParity, WorstColumns
from orchestrator.spec.gates import GATES, Gate, PrecisionGates, is_floor

__all__ = ["Gates", "closeness", "judge", "nearest", "worst"]

COLUMN_ROOM = 5.0
"""The factor by which the limits of a single column are looser than those of the whole output."""


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits for one candidate.

    Attributes:
        default: of its precision.
        own: gate → limit, of the gates that the spec's `verify:` sets.
    """

    default: PrecisionGates
    own: Mapping[str, float] = field(default_factory=dict)

    def limit(self, gate: Gate, kind: CaseKind, magnitude: float) -> float | None:
        """The limit of a gate for an output of this magnitude; None if it is measured, but not gated.

        The spec's limits apply to samples; to edge inputs the default limits, which scale with the magnitude, or the spec's if
        they are looser.
        """
        scaled = self.default.max_scaled_error * magnitude
        default = scaled if gate.name == "max_abs_error" else self.default.limits.get(gate.name)
        own = self.own.get(gate.name)
        if own is None or (kind == "edge" and default is None):
            return default
        if kind != "edge" or default is None:
            return own
        return min(default, own) if is_floor(gate.name) else max(default, own)


def judge(
    output: str, case: str, kind: CaseKind, parity: OutputParity, *, gates: Gates, classes: bool
) -> list[GateResult]:
    """Judge one output of one call.

    Args:
        output: its name.
        case: the call's name.
        kind: which limits apply, see `Gates.limit`; gates of many rows only apply to all samples together.
        parity: what was measured.
        gates: the limits.
        classes: whether the output is known to have a score for each class, so that the top class matters.
    """
    if parity.mismatch is not None:
        return [GateResult("shape", output, 0, 1, passed=False, case=case, detail=parity.mismatch)]
    by_value = kind != "edge" or gates.default.edges_by_value
    odd = parity.not_finite if by_value else parity.new_not_finite
    results = [GateResult("finite", output, 0, odd, passed=odd == 0, case=case)]
    if not by_value:
        return results
    chosen = classes or parity.max_abs_error is None  # integers and texts have no error, and agree or not
    for gate in GATES.values():
        measured, limit = getattr(parity, gate.measure), gates.limit(gate, kind, parity.magnitude)
        if measured is None or limit is None or (gate.of_samples and kind != "samples"):
            continue
        if not gate.of_classes or chosen or gate.name in gates.own:
            found = _result(gate.name, output, limit, measured, case)
            results.append(_named(found, "row", parity.farthest_row) if gate.measure == "row_cosine" else found)
    if kind == "samples" and parity.columns is not None:
        results += _columns(output, case, parity.columns, gates)
    return results


def _columns(output: str, case: str, columns: WorstColumns, gates: Gates) -> list[GateResult]:
    """Judge single columns, without their offset; an absolute limit of the spec already applies to every column."""
    results = []
    if "max_abs_error" not in gates.own:
        ceiling = COLUMN_ROOM * gates.default.max_scaled_error
        found = _result("max_column_error", output, ceiling, columns.max_error, case)
        results.append(_named(found, "column", columns.error_column))
    whole = gates.limit(GATES["min_cosine"], "samples", 0.0)
    if whole is not None:
        found = _result("min_column_cosine", output, 1.0 - COLUMN_ROOM * (1.0 - whole), columns.min_cosine, case)
        results.append(_named(found, "column", columns.cosine_column))
    return results


def _named(result: GateResult, part: str, number: int | None) -> GateResult:
    measured, limit = result.numbers
    return replace(result, detail=f"{part} {number} has {measured}, the limit is {limit}")


def closeness(result: GateResult) -> float:
    """How close a result is to its limit: 1 at the limit, more beyond it. Only for comparing results of one gate."""
    if not result.passed:
        return 1.0 + abs(result.measured - result.limit)
    if is_floor(result.gate):
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


def nearest(results: Iterable[GateResult], gate: str) -> GateResult | None:
    """Of the results of one gate, for any output, the one closest to its limit or furthest beyond it; None if there is none."""
    return max((each for each in results if each.gate == gate), key=closeness, default=None)


def _result(gate: GateName, output: str, limit: float, measured: float, case: str) -> GateResult:
    passed = measured >= limit if is_floor(gate) else measured <= limit
    return GateResult(gate, output, limit, measured, passed=passed, case=case)
