"""One column of an output is judged by itself: neither a larger one beside it nor an offset hides that it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.verify.columns import compare_columns
from orchestrator.verify.gates import Gates, judge
from orchestrator.verify.parity import compare

Array = np.ndarray[Any, Any]
PRECISIONS = list(DEFAULT_GATES)
NOISE = {"fp32": 2e-6, "bf16": 2**-8, "fp16": 2**-11, "int8": 0.01, "int4": 0.014}
"""What a right variant is off by, as a part of a column's spread or more."""


def failed(expected: Array, actual: Array, precision: str, **overrides: float) -> set[str]:
    gates = Gates(DEFAULT_GATES[precision], overrides)
    columns = compare_columns(expected, actual, noise=gates.default.noise)
    parity = compare(expected, actual).model_copy(update={"columns": columns})
    results = judge("y", "all samples", "samples", parity, gates=gates, classes=False)
    return {result.gate for result in results if not result.passed}


def rows(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def boxes() -> Array:
    draw = np.random.default_rng(1)
    corners, score = draw.uniform(0, 640, (100, 4)), draw.uniform(0, 1, (100, 1))
    return np.concatenate([corners, score], axis=1).astype(np.float32)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)  # type: ignore[no-any-return]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inverted_scores_beside_boxes_in_pixels_fail(precision: str) -> None:
    right, wrong = boxes(), boxes()
    wrong[:, 4] = 1 - wrong[:, 4]
    # For fp32 the score lies within the arithmetic's noise of such boxes, and the whole is judged sharply enough.
    assert ("max_abs_error" if precision == "fp32" else "min_column_cosine") in failed(right, wrong, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(200,), (200, 1), (50, 4, 1)])
def test_a_constant_does_not_pass_for_a_temperature(precision: str, shape: tuple[int, ...]) -> None:
    kelvin = 293 + np.clip(rows(*shape), -1, 1)
    assert failed(kelvin, np.full_like(kelvin, 293), precision) >= {"min_column_cosine"}


def test_a_wrong_column_is_named_with_its_numbers() -> None:
    right, wrong = boxes(), boxes()
    wrong[:, 4] = 1 - wrong[:, 4]
    parity = compare(right, wrong).model_copy(update={"columns": compare_columns(right, wrong)})
    found = judge("y", "all samples", "samples", parity, gates=Gates(DEFAULT_GATES["int8"]), classes=False)
    assert [result.detail for result in found if not result.passed][-1] == "column 4 has -0.9966, the limit is 0.95"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "right",
    [
        pytest.param(rows(200, 10) * 8, id="logits"),
        pytest.param(rows(200, 64) / 8 + 2 * rows(64), id="embeddings with offsets"),
        pytest.param(softmax(rows(200, 100) * 6), id="softmax"),
        pytest.param(rows(20, 16, 32), id="tokens"),
        pytest.param(np.concatenate([rows(200, 8), np.full((200, 1), 3, np.float32)], axis=1), id="a constant column"),
        pytest.param(np.concatenate([rows(200, 8), np.zeros((200, 1), np.float32)], axis=1), id="a zero column"),
        pytest.param(np.concatenate([rows(200, 8), 50 + rows(200, 1) / 1e4], axis=1), id="a nearly constant column"),
        pytest.param(rows(3, 4), id="three rows"),
        pytest.param(np.full((200, 4), 7, np.float32), id="nothing but constants"),
    ],
)
def test_a_right_variant_passes(precision: str, right: Array) -> None:
    reach = np.abs(right).max(axis=tuple(range(right.ndim - 1)))
    noise = np.random.default_rng(4).uniform(-1, 1, right.shape) * NOISE[precision]
    assert failed(right, (right + noise * reach).astype(np.float32), precision) == set()


def test_a_nearly_constant_offset_may_round_in_fp32() -> None:
    kelvin = (293 + rows(300, 1)).astype(np.float32)
    assert failed(kelvin, np.nextafter(np.nextafter(kelvin, np.float32(0)), np.float32(0)), "fp32") == set()


def test_the_specs_limits_hold_for_columns_too() -> None:
    right = rows(200, 4)
    off = right.copy()
    off[:, 2] *= 1 + 0.2 * (np.arange(200) % 2)
    assert failed(right, off, "bf16", max_abs_error=2.0) == set()
    assert failed(right, off, "bf16", max_abs_error=2.0, min_cosine=0.9999) >= {"min_column_cosine"}


@pytest.mark.parametrize("array", [np.ones((9, 257)), np.ones((9, 3), np.int64), np.ones((0, 3)), np.ones((9, 0))])
def test_what_has_no_columns_to_judge_is_left_to_the_other_gates(array: Array) -> None:
    assert compare_columns(array, array) is None


SOME = arrays(np.float32, array_shapes(max_dims=3, min_side=4, max_side=10), elements=st.floats(width=32))


@pytest.mark.processes
@given(SOME, st.data())
def test_no_measure_is_ever_nan_and_equal_outputs_are_equal(array: Array, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, array.shape, elements=st.floats(width=32)))
    found = compare_columns(array, other)
    assert found is None or (np.isfinite(found.max_error) and -1 <= found.min_cosine <= 1)
    same = compare_columns(array, array)
    assert same is None or (same.max_error == 0 and same.min_cosine == pytest.approx(1))
