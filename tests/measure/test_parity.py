"""Comparing outputs: errors that zeros, NaN, infinities and ties do not fool; gates that say what they saw."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from orchestrator.artifacts.verdict import CaseKind, GateResult, OutputParity
from orchestrator.spec.gates import DEFAULT_GATES, GATES, Precision, is_floor
from orchestrator.spec.models import Verify
from orchestrator.verify.gates import Gates, judge, worst
from orchestrator.verify.parity import compare


def f32(*values: Any) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def test_errors_are_the_largest_ones() -> None:
    parity = compare(f32(1.0, -2.0, 4.0), f32(1.5, -2.0, 3.0))

    assert parity.max_abs_error == 1.0
    assert parity.max_rel_error == 0.5
    assert parity.magnitude == 4.0


def test_a_value_near_zero_does_not_decide_the_relative_error() -> None:
    parity = compare(f32(0.0, 100.0), f32(0.001, 100.0))

    assert parity.max_rel_error == pytest.approx(0.001)  # of one per cent of the magnitude, not of zero


def test_two_zero_outputs_are_equal() -> None:
    parity = compare(f32(0.0, 0.0), f32(0.0, 0.0))

    assert (parity.max_abs_error, parity.max_rel_error, parity.cosine) == (0.0, 0.0, 1.0)


def test_a_zero_output_against_another_has_no_direction_in_common() -> None:
    assert compare(f32(0.0, 0.0), f32(1.0, 0.0)).cosine == 0.0


def test_an_output_that_is_zero_here_is_seen_at_its_scale_elsewhere() -> None:
    parity = compare(f32(0.0), f32(1e-4), scale=10.0)

    assert parity.magnitude == 10.0
    assert parity.max_rel_error == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("expected", "actual", "odd", "new"),
    [
        (math.nan, math.nan, 0, 0),
        (math.inf, math.inf, 0, 0),
        (1.0, math.nan, 1, 1),
        (1.0, math.inf, 1, 1),
        (math.nan, 1.0, 1, 0),
        (math.inf, -math.inf, 1, 0),
        (math.inf, math.nan, 1, 0),
    ],
)
def test_nan_and_infinity_must_be_on_both_sides(expected: float, actual: float, odd: int, new: int) -> None:
    parity = compare(f32(2.0, expected), f32(2.0, actual))

    assert (parity.not_finite, parity.new_not_finite) == (odd, new)
    assert parity.max_abs_error == 0.0
    assert parity.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("actual", "why"),
    [
        (np.zeros((2, 3), np.float32), "shape [2, 3] instead of [3, 2]"),
        (np.zeros((3, 2), np.int64), "int64 instead of float32"),
    ],
)
def test_another_shape_or_dtype_is_a_mismatch(actual: np.ndarray[Any, Any], why: str) -> None:
    assert compare(np.zeros((3, 2), np.float32), actual).mismatch == why


def test_a_float_of_another_width_is_compared() -> None:
    assert compare(f32(1.0), np.array([1.0], np.float64)).max_abs_error == 0.0


def test_top1_counts_rows_whose_first_class_is_the_baselines() -> None:
    expected = np.array([[1, 2, 0], [3, 1, 0], [0, 0, 9], [5, 4, 0]], np.float32)
    actual = np.array([[1, 2, 0], [1, 3, 0], [0, 0, 1], [5, 4, 0]], np.float32)

    assert compare(expected, actual).top1_agreement == 0.75


def test_a_tie_may_be_broken_either_way() -> None:
    assert compare(np.array([[1.0, 1.0, 0.0]]), np.array([[0.9, 1.0, 0.0]])).top1_agreement == 1.0
    assert compare(np.array([[1.0, 0.9, 0.0]]), np.array([[0.9, 1.0, 0.0]])).top1_agreement == 0.0


def test_a_row_that_becomes_nan_does_not_agree() -> None:
    assert compare(np.array([[1.0, 2.0]]), np.array([[1.0, math.nan]])).top1_agreement == 0.0


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 3, 4), (0, 3)])
def test_top1_is_for_rows_of_classes(shape: tuple[int, ...]) -> None:
    assert compare(np.ones(shape, np.float32), np.ones(shape, np.float32)).top1_agreement is None


def test_texts_are_compared_for_equality() -> None:
    expected, actual = np.array([["yes", "no"], ["", "maybe"]]), np.array([["yes", "no"], ["", "perhaps"]])

    parity = compare(expected, actual)

    assert (parity.top1_agreement, parity.rows, parity.max_abs_error) == (0.75, 4, None)
    (result,) = [
        result
        for result in judge(
            "word", "all samples", "samples", parity, gates=Gates(DEFAULT_GATES["fp32"]),
            classes=False,
        )
        if result.gate == "min_top1_agreement"
    ]  # fmt: skip
    assert (result.passed, result.measured) == (False, 0.75)


def test_texts_are_not_numbers() -> None:
    assert compare(np.array(["1"]), np.array([1])).mismatch == "int64 instead of <U1"


def test_integers_are_compared_for_equality() -> None:
    parity = compare(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))

    assert parity.top1_agreement == 0.75
    assert parity.max_abs_error is None


def test_an_empty_output_is_equal_to_itself() -> None:
    parity = compare(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32))

    assert (parity.mismatch, parity.max_abs_error, parity.cosine) == (None, 0.0, 1.0)


SOME = arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32))


@given(SOME)
def test_any_output_equals_itself(array: np.ndarray[Any, Any]) -> None:
    parity = compare(array, array.copy())

    assert (parity.not_finite, parity.max_abs_error, parity.max_rel_error) == (0, 0.0, 0.0)
    assert parity.cosine == pytest.approx(1.0)
    assert parity.top1_agreement in {None, 1.0}


@given(SOME, st.data())
def test_no_measure_is_ever_nan(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, array.shape, elements=st.floats(width=32)))

    parity = compare(array, other)

    for value in (parity.max_abs_error, parity.max_rel_error, parity.cosine):
        assert value is not None
        assert math.isfinite(value)
    assert parity.cosine is not None
    assert -1.0 <= parity.cosine <= 1.0


def judged(expected: Any, actual: Any, precision: str = "fp32", **overrides: float) -> dict[str, GateResult]:
    results = judge(
        "y", "case", "samples", compare(expected, actual),
        gates=Gates(DEFAULT_GATES[precision], overrides), classes=True,
    )  # fmt: skip
    return {result.gate: result for result in results}


def test_every_precision_has_gates() -> None:
    assert set(DEFAULT_GATES) == set(get_args(Precision))


def test_every_gate_has_a_key_in_the_spec_a_measure_and_defaults_that_are_its_own() -> None:
    assert [key for key in Verify.model_fields if key in GATES] == list(GATES)
    for gate in GATES.values():
        assert gate.measure in OutputParity.model_fields
        assert is_floor(gate.name) != gate.name.startswith("max_")
    for precision in DEFAULT_GATES.values():
        assert set(precision.limits) <= set(GATES)


def test_a_gate_without_a_default_is_judged_only_where_the_spec_sets_it() -> None:
    gate = GATES["max_rel_error"]
    assert Gates(DEFAULT_GATES["fp32"]).limit(gate, "samples", 1.0) is None
    asked = Gates(DEFAULT_GATES["fp32"], {gate.name: 0.5})
    assert [asked.limit(gate, kind, 1.0) for kind in get_args(CaseKind)] == [0.5, 0.5, None]


def test_edge_inputs_are_judged_by_the_looser_limit() -> None:
    for gate, looser, stricter in (("max_abs_error", 2.0, 1e-9), ("min_cosine", 0.5, 0.9999999)):
        default = Gates(DEFAULT_GATES["fp32"]).limit(GATES[gate], "edge", 1.0)
        limits = [
            Gates(DEFAULT_GATES["fp32"], {gate: own}).limit(GATES[gate], "edge", 1.0) for own in (looser, stricter)
        ]
        assert limits == [looser, default]


def test_the_default_error_limit_goes_with_the_magnitude() -> None:
    large = np.array([[1e6, 0.0]], np.float32)

    assert judged(large, large + np.float32(50))["max_abs_error"].passed
    assert not judged(large / 1e6, large / 1e6 + np.float32(0.01))["max_abs_error"].passed


def test_the_specs_limit_replaces_the_default() -> None:
    expected, actual = np.array([[1.0, 2.0]]), np.array([[1.0, 2.1]])

    assert not judged(expected, actual)["max_abs_error"].passed
    assert judged(expected, actual, max_abs_error=0.2)["max_abs_error"].passed
    strict = judged(expected, actual, "int8", max_abs_error=0.01)["max_abs_error"]
    assert (strict.passed, strict.limit) == (False, 0.01)


def test_a_relative_limit_is_gated_where_the_spec_sets_one() -> None:
    expected, actual = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0001]])

    assert "max_rel_error" not in judged(expected, actual)
    assert not judged(expected, actual, max_rel_error=1e-5)["max_rel_error"].passed


def test_top1_is_gated_for_classes_and_where_it_is_asked_for() -> None:
    expected, actual = np.array([[1.0, 0.99]]), np.array([[0.99, 1.0]])
    parity = compare(expected, actual)

    def gates(classes: bool, **overrides: float) -> set[str]:
        chosen = Gates(DEFAULT_GATES["int8"], overrides)
        results = judge(
            "y", "c", "samples", parity, gates=chosen, classes=classes
        )  # fmt: skip
        return {result.gate for result in results if not result.passed}

    assert gates(classes=False) == set()
    assert gates(classes=True) == {"min_top1_agreement"}
    assert gates(classes=False, min_top1_agreement=0.9) == {"min_top1_agreement"}


@pytest.mark.parametrize(("precision", "gated"), [("fp32", True), ("bf16", True), ("int8", False)])
def test_values_of_edge_inputs_are_not_gated_for_int8(precision: str, gated: bool) -> None:
    results = judge(
        "y", "zeros", "edge", compare(f32(1.0), f32(5.0)),
        gates=Gates(DEFAULT_GATES[precision], {}), classes=False,
    )  # fmt: skip

    assert ("max_abs_error" in {result.gate for result in results}) is gated
    assert results[0].gate == "finite"


def test_the_result_nearest_to_its_limit_is_kept() -> None:
    def result(measured: float, limit: float, case: str) -> GateResult:
        return GateResult("max_abs_error", "y", limit, measured, passed=measured <= limit, case=case)

    assert worst([result(1, 10, "a"), result(3, 4, "b"), result(2, 10, "c")])[0].case == "b"
    assert worst([result(3, 4, "a"), result(5, 4, "b"), result(4.1, 4, "c")])[0].case == "b"
