"""Which batches an ONNX model takes, and what is said of those that it does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.frameworks.onnx.case import WEIGHTS, floats, model, refused, run_check, saved, signature, stored

pytestmark = pytest.mark.frameworks


def _one_row() -> Any:
    """`y = reshape(x, [1, 4]) @ w`: x [batch, 2, 2], of which the graph takes a batch of one."""
    return model(
        [helper.make_node("Reshape", ["x", "shape"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        [floats("x", ["batch", 2, 2])],
        [floats("y", ["batch", 3])],
        [stored("w", WEIGHTS), stored("shape", np.array([1, 4]))],
    )


def _declared(low: int, high: int) -> dict[str, Any]:
    return signature({"x": ("float32", ["batch", 2, 2])}, dims={"batch": (low, high)})


def test_a_model_of_one_row_is_refused_with_the_range_that_works(tmp_path: Path) -> None:
    path = saved(_one_row(), tmp_path)
    error = refused("E322", run_check, path, tmp_path, _declared(1, 64), at=("model", "dims", "batch"))
    assert "a batch of 1, and fails with one more row" in error.message
    assert "`dims: {batch: {min: 1, max: 1}}`" in error.diagnostic.remedy
    assert "Reshape" in error.cause

    ran = run_check(path, tmp_path / "again", _declared(1, 1))
    assert ran.arrays("baseline.npz")["y"].shape == (32, 3)


def test_a_model_that_takes_no_batch_at_all_is_refused_as_before(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 3, 2])})
    proto = _one_row()
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    refused("E321", run_check, saved(proto, tmp_path), tmp_path, declared, at=("model", "inputs"))
