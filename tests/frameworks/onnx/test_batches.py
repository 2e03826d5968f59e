"""Which batches an ONNX model takes, and what is said of those that it does not take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from orchestrator.artifacts.baseline import as_arrays, read_baseline
from orchestrator.artifacts.imported import Imported
from orchestrator.artifacts.verdict import Verdict
from orchestrator.frameworks.source.samples import write_npz
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.verify.step import verify
from tests.frameworks.onnx.case import WEIGHTS, floats, model, refused, run_check, run_convert, saved, signature, stored
from tests.frameworks.verify_case import verify_params

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


def _positive(shape: Sequence[int | str]) -> Any:
    """`y = x[x[:, 0] > 0]`: the rows whose first number is positive, as the boxes that survive NMS."""
    nodes = [
        helper.make_node("Gather", ["x", "place"], ["first"], axis=1),
        helper.make_node("Greater", ["first", "zero"], ["kept"]),
        helper.make_node("Compress", ["x", "kept"], ["y"], axis=0),
    ]
    constants = [stored("place", np.array(0)), stored("zero", np.array(0, np.float32))]
    return model(nodes, [floats("x", shape)], [floats("y", ["found", 4])], constants)


@pytest.mark.parametrize("first", ["batch", 6])
def test_rows_that_depend_on_values_are_proven_call_by_call(tmp_path: Path, first: int | str) -> None:
    batch = "batch" if first == "batch" else None
    declared = signature(
        {"x": ("float32", [first, 4])}, dims={"batch": (1, 8)} if batch else {"kept": (1, 1)}, batch=batch
    )
    x = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    samples = {"x": x if batch else x.reshape(4, 6, 4)}
    converted = run_convert(saved(_positive([first, 4]), tmp_path), tmp_path, declared, samples=samples)
    folder = tmp_path / "import" / "output"
    imported = Imported.read(folder)
    assert imported.signature.batch is None
    answers = read_baseline(folder)["y"]
    assert isinstance(answers, tuple)
    np.testing.assert_array_equal(np.concatenate(answers), x[x[:, 0] > 0])

    output = tmp_path / "verify"
    output.mkdir()
    inputs = {"import": folder, "variant": converted.folder}
    parameters = verify_params(Signature.from_json(declared), "onnx", "fp32")
    verify(StepContext(parameters, inputs, output, output, output))
    verdict = Verdict.read(output)
    assert verdict.passed
    assert {"max_abs_error", "min_cosine"} <= {gate.gate for gate in verdict.gates}
    assert verdict.cases[0].kind == "samples"

    other = np.array(answers[0][:0]) if len(answers[0]) else np.zeros((1, 4), np.float32)
    write_npz(folder / "baseline.npz", as_arrays({"y": (other, *answers[1:])}))
    (output / "verdict.json").unlink()
    verify(StepContext(parameters, inputs, output, output, output))
    (failed,) = [gate for gate in Verdict.read(output).gates if not gate.passed]
    assert "for sample 0" in failed.detail


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
