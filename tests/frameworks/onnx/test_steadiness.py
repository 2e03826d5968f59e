"""ONNX models whose outputs do not repeat, alone and in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.frameworks.onnx.case import (
    WEIGHTS,
    WEIGHTS_PLACE,
    X,
    floats,
    linear,
    model,
    refused,
    run_check,
    saved,
    signature,
    stored,
)

pytestmark = pytest.mark.frameworks


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 4])])
    error = refused("E330", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.cause == "`RandomNormalLike` draws random numbers"


def test_a_model_that_normalizes_by_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 4])])
    error = refused("E331", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "depends on the other rows of its batch" in error.message


def _chaotic(steps: int, before: list[Any]) -> Any:
    """A row's values between 0 and 1 round in another way in a batch of another size; steps of the logistic map amplify that."""
    nodes = [
        *before,
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Shape", ["h"], ["rows"], start=0, end=1),
        helper.make_node("Cast", ["rows"], ["n"], to=1),
        helper.make_node("Add", ["s", "n"], ["more"]),
        helper.make_node("Sub", ["more", "n"], ["y0"]),
    ]
    for step in range(steps):
        nodes += [
            helper.make_node("Sub", ["one", f"y{step}"], [f"a{step}"]),
            helper.make_node("Mul", [f"a{step}", f"y{step}"], [f"b{step}"]),
            helper.make_node("Mul", [f"b{step}", "r"], [f"y{step + 1}"]),
        ]
    nodes.append(helper.make_node("Identity", [f"y{steps}"], ["y"]))
    numbers = [
        stored("one", np.array(1, np.float32)),
        stored("r", np.array(3.9, np.float32)),
        stored("table", np.eye(9, 4, dtype=np.float32)),
    ]
    ids = before[0].op_type == "Gather"
    taken = helper.make_tensor_value_info("x", 7, ["N"]) if ids else floats("x", ["N", 4])
    return model(nodes, [taken], [floats("y", ["N", 4])], numbers)


_LOOKED_UP = [helper.make_node("Gather", ["table", "x"], ["h"])]
_CENTRED = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]), helper.make_node("Sub", ["x", "mean"], ["h"])]
_AS_IT_IS = [helper.make_node("Identity", ["x"], ["h"])]


@pytest.mark.parametrize(("steps", "before"), [(40, _AS_IT_IS), (12, _LOOKED_UP)], ids=["floats", "ids"])
def test_a_model_that_amplifies_rounding_is_taken_with_a_note(tmp_path: Path, steps: int, before: list[Any]) -> None:
    declared = signature({"x": ("int64", ["batch"]) if before is _LOOKED_UP else ("float32", ["batch", 4])})
    ran = run_check(saved(_chaotic(steps, before), tmp_path), tmp_path, declared)
    assert any("a row's `y` differs a little with the size of its batch" in note for note in ran.facts["notes"])


@pytest.mark.parametrize("steps", [0, 40])
def test_a_model_that_amplifies_rounding_and_mixes_rows_is_refused(tmp_path: Path, steps: int) -> None:
    refused("E331", run_check, saved(_chaotic(steps, _CENTRED), tmp_path), tmp_path, at=WEIGHTS_PLACE)


def _quantized_while_running() -> Any:
    """As `quantize_dynamic` makes it: one scale for the whole batch."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 3])], [stored("w", WEIGHTS)])


def test_a_model_that_quantizes_a_batch_by_one_range_is_refused_with_two_remedies(tmp_path: Path) -> None:
    error = refused("E331", run_check, saved(_quantized_while_running(), tmp_path), tmp_path, samples={"x": X * 3})
    assert "`DynamicQuantizeLinear` quantizes all rows of a batch with one common range" in error.cause
    assert "dims: {batch: {min: 1, max: 1}}" in error.remedy


def test_the_same_model_is_accepted_row_by_row(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, dims={"batch": (1, 1)})
    ran = run_check(saved(_quantized_while_running(), tmp_path), tmp_path, declared, samples={"x": X * 3})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X * 3 @ WEIGHTS, atol=0.05)


def test_a_model_that_only_the_checker_rejects_is_accepted_with_a_note(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7  # a wrong shape: ONNX Runtime only warns
    ran = run_check(saved(proto, tmp_path), tmp_path, samples={"x": X})
    assert any(note.startswith("source: ONNX's checker rejects") for note in ran.facts["notes"])
