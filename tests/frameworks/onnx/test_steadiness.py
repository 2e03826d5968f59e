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
