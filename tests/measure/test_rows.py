"""One answer is judged by its own direction: the right ones beside it do not hide that it is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from orchestrator.artifacts.baseline import Answers
from orchestrator.artifacts.verdict import CaseKind, GateResult, OutputParity
from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.verify.gates import Gates, judge
from orchestrator.verify.parity import compare, together
from orchestrator.verify.rows import with_rows

Array = np.ndarray[Any, Any]


def rows(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def turned(row: Array, cosine: float) -> Array:
    """A row of the same length at this cosine to the given one."""
    other = np.random.default_rng(4).standard_normal(row.shape)
    across = other - row * np.vdot(other, row) / np.vdot(row, row)
    across *= np.linalg.norm(row) / np.linalg.norm(across)
    return (cosine * row + np.sqrt(1 - cosine**2) * across).astype(np.float32)  # type: ignore[no-any-return]


def measured(expected: Answers, actual: Answers) -> OutputParity:
    return with_rows(compare(together(expected), together(actual)), expected, actual)


def judged(parity: OutputParity, kind: CaseKind = "samples", **limits: float) -> dict[str, GateResult]:
    gates = Gates(DEFAULT_GATES["int8"], limits)
    return {each.gate: each for each in judge("y", "case", kind, parity, gates=gates, classes=False)}


@pytest.fixture
def sentences() -> tuple[Array, Array]:
    """48 unit vectors; of the second ones, 20 are at a cosine of 0.98 to those of the first."""
    right = rows(48, 384)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    wrong = right.copy()
    for row in range(20, 40):
        wrong[row] = turned(right[row], 0.98)
    return right, wrong


def test_wrong_sentences_do_not_hide_among_right_ones(sentences: tuple[Array, Array]) -> None:
    parity = measured(*sentences)

    found = judged(parity, min_cosine=0.99, min_row_cosine=0.99)

    assert found["min_cosine"].passed, "0.9917 over all samples"
    assert not found["min_row_cosine"].passed
    assert found["min_row_cosine"].measured == pytest.approx(0.98, abs=1e-4)
    assert found["min_row_cosine"].detail == f"row {parity.farthest_row} has 0.98, the limit is 0.99"
    assert parity.farthest_row in range(20, 40)


def test_rows_are_judged_in_every_call_but_with_edge_inputs_and_only_where_the_spec_asks(
    sentences: tuple[Array, Array],
) -> None:
    parity = measured(*sentences)

    assert not judged(parity, "call", min_row_cosine=0.99)["min_row_cosine"].passed
    assert "min_row_cosine" not in judged(parity, "edge", min_row_cosine=0.99)
    assert "min_row_cosine" not in judged(parity)


def test_a_row_is_all_that_an_output_has_for_a_sample() -> None:
    """Tokens of padding are a part of their text's row, not rows of their own."""
    right = rows(6, 10, 32)
    wrong = right.copy()
    wrong[4, 9] *= -1

    parity = measured(right, wrong)

    assert parity.farthest_row == 4
    assert parity.row_cosine == pytest.approx(1 - 2 * np.vdot(right[4, 9], right[4, 9]) / np.vdot(right[4], right[4]))


def test_answers_of_other_sizes_are_a_row_each() -> None:
    right = tuple(rows(size, 4) for size in (3, 1, 7))
    wrong = (right[0], -right[1], right[2])

    parity = measured(right, wrong)

    assert parity.row_cosine == pytest.approx(-1)
    assert parity.farthest_row == 1


@pytest.mark.parametrize("nothing", [0.0, 1e-4])
def test_a_row_of_nearly_nothing_has_no_direction_and_is_judged_by_its_error(nothing: float) -> None:
    right = rows(8, 16)
    right[5] *= nothing
    noisy, wrong = right.copy(), right.copy()
    noisy[5] = -right[5] + 1e-4
    wrong[5] = 3 * right[0]

    assert measured(right, noisy).row_cosine == pytest.approx(1)
    found = judged(measured(right, wrong), min_row_cosine=0.99)
    assert found["min_row_cosine"].passed
    assert not found["max_abs_error"].passed


def test_a_row_that_becomes_zero_has_lost_its_direction() -> None:
    right = rows(8, 16)
    wrong = right.copy()
    wrong[2] = 0

    parity = measured(right, wrong)

    assert (parity.row_cosine, parity.farthest_row) == (0.0, 2)


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(rows(8), id="numbers"),
        pytest.param(rows(8, 1), id="rows of one number"),
        pytest.param((rows(), rows()), id="single answers of one number"),
        pytest.param(np.zeros((8, 4), np.float32), id="zeros"),
        pytest.param(np.ones((8, 4), np.int64), id="integers"),
        pytest.param(np.array([["a", "b"]]), id="texts"),
        pytest.param(np.ones((0, 4), np.float32), id="nothing"),
    ],
)
def test_what_has_no_direction_is_left_to_the_other_gates(answers: Answers) -> None:
    parity = measured(answers, answers)

    assert (parity.row_cosine, parity.farthest_row) == (None, None)
    assert "min_row_cosine" not in judged(parity, min_row_cosine=0.99)


SOME = arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32))


@given(SOME, st.data())
def test_no_measure_is_ever_nan_and_equal_rows_are_equal(array: Array, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, array.shape, elements=st.floats(width=32)))

    found = measured(array, other).row_cosine

    assert found is None or -1 <= found <= 1
    same = measured(array, array).row_cosine
    assert same is None or same == pytest.approx(1)
