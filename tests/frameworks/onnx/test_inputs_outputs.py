"""Inputs and outputs of ONNX models: which can be served, and the errors if the spec declares others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.ir_version import largest_ir_version
from orchestrator.frameworks.onnx.runtime import open_checked_file
from orchestrator.frameworks.onnx.signature import Names
from orchestrator.frameworks.source.samples import Array
from tests.frameworks.onnx.case import (
    OPSET,
    WEIGHTS,
    X,
    floats,
    linear,
    model,
    outside,
    refused,
    run_check,
    run_convert,
    run_inspect,
    saved,
    signature,
    stored,
    value,
    wide,
)

pytestmark = pytest.mark.frameworks


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, ["N", 4]), "bfloat16"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, ["N", 4]), "float8e4m3fn"),
        (helper.make_tensor_type_proto(TensorProto.COMPLEX64, ["N", 4]), "complex64"),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["N", 4]), "sparse_tensor(float32)"),
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)), "seq(float32)"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(7, None)), "optional(int64)"),
    ],
)
def test_an_input_that_requests_cannot_carry_is_refused(tmp_path: Path, kind: Any, said: str) -> None:
    proto = linear()
    proto.graph.input[0].type.CopyFrom(kind)
    error = refused("E362", run_inspect, saved(proto, tmp_path), tmp_path)
    assert error.message == f"the model's input `x` is {said}, which no request can carry"
    assert "float32" in error.remedy


def _classifier() -> Any:
    """A classifier as skl2onnx makes it by default: labels, and probabilities as a list of dictionaries."""
    classify = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=WEIGHTS.T.ravel().tolist(),
        intercepts=[0.0, 0.1, 0.2],
        classlabels_ints=[0, 1, 2],
        multi_class=1,
        post_transform="SOFTMAX",
    )
    zip_map = helper.make_node(
        "ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
    )
    probabilities = helper.make_value_info(
        "probabilities",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        ),
    )
    return model(
        [classify, zip_map],
        [floats("x", ["N", 4])],
        [value("label", TensorProto.INT64, ["N"]), probabilities],
        domains={"ai.onnx.ml": 3},
    )


def test_a_list_of_dictionaries_is_found_with_the_way_to_an_array(tmp_path: Path) -> None:
    found = run_inspect(saved(_classifier(), tmp_path), tmp_path).json("inspection.json")
    assert [(t["tensor"], t["dtype"], t["shape"]) for t in found["outputs"]] == [
        ("label", "int64", ["N"]),
        ("probabilities", "seq(map(int64, float32))", None),
    ]
    assert "options={'zipmap': False}" in found["notes"][0]["text"]
    assert found["notes"][0]["tensor"] == "probabilities"


def test_a_list_of_dictionaries_cannot_be_served(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["label", "probabilities"])
    path = saved(_classifier(), tmp_path)
    error = refused("E362", run_check, path, tmp_path, declared, at=("model", "outputs", 1))
    assert "options={'zipmap': False}" in error.remedy


def test_what_is_not_declared_is_left_out_and_noted(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["label"])
    ran = run_check(saved(_classifier(), tmp_path), tmp_path, declared, samples={"x": X})
    assert ran.arrays("baseline.npz")["label"].tolist() == (X @ WEIGHTS + [0.0, 0.1, 0.2]).argmax(axis=1).tolist()
    assert "source: the model's output `probabilities` (seq(map(int64, float32))) is not served" in ran.facts["notes"]


@pytest.mark.parametrize(
    ("declared", "names", "message", "at"),
    [
        (
            signature({"image": ("float32", ["batch", 4])}),
            None,
            "the model has no input `image`",
            ("model", "inputs", 0, "name"),
        ),
        (
            signature({"x": ("float32", ["batch", 4])}, ["logits"]),
            {"outputs": {"logits": "z"}},
            "the model has no output `z`",
            ("model", "outputs", 0, "name"),
        ),
        (
            signature({"x": ("float64", ["batch", 4])}),
            None,
            "`x` is float32 in the model, but float64 is declared",
            ("model", "inputs", 0, "dtype"),
        ),
        (
            signature({"x": ("float32", ["batch", 2, 2])}),
            None,
            "`x` has 2 dimensions in the model, but 3 are declared",
            ("model", "inputs", 0, "shape"),
        ),
        (
            signature({"x": ("float32", ["batch", 5])}),
            None,
            "dimension 1 of `x` is 4 in the model, but 5 is declared",
            ("model", "inputs", 0, "shape", 1),
        ),
        (
            signature({"x": ("float32", ["batch", "width"])}, dims={"batch": (1, 8), "width": (1, 9)}),
            None,
            "dimension 1 of `x` is 4 in the model, but `width` from 1 to 9 is declared",
            ("model", "inputs", 0, "shape", 1),
        ),
        (
            signature({"x": ("float32", ["batch", 4])}, ["a", "b"]),
            {"outputs": {"a": "y", "b": "y"}},
            "`a` and `b` are the same tensor `y`",
            ("model", "outputs", 1),
        ),
    ],
)
def test_a_declaration_that_differs_from_the_model_is_refused(
    tmp_path: Path, declared: Any, names: Any, message: str, at: tuple[str | int, ...]
) -> None:
    error = refused("E363", run_check, saved(linear(), tmp_path), tmp_path, declared, names, at=at)
    assert error.message == message


def test_the_same_name_for_an_input_and_an_output_is_refused(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["x"])
    path = saved(linear(), tmp_path)
    error = refused("E363", run_check, path, tmp_path, declared, {"outputs": {"x": "y"}}, at=("model", "outputs", 0))
    assert "outputs: [{name: x_out, tensor: 'y'}, ...]" in error.remedy


def test_an_input_that_is_not_declared_is_reported(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [floats("x", ["N", 4]), floats("offset", ["N", 4])],
        [floats("y", ["N", 4])],
    )
    error = refused("E363", run_check, saved(proto, tmp_path), tmp_path)
    assert error.message == "the model also takes `offset`, for which nothing is declared"


def test_an_unsupported_size_is_reported_with_its_dimension(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [floats("x", ["N", "M"])],
        [floats("y", None)],
        [stored("shape", np.array([-1, 2, 3]))],
    )
    declared = signature({"x": ("float32", ["batch", "m"])}, dims={"batch": (1, 4), "m": (6, 8)})
    samples = {"x": np.ones((3, 6), np.float32)}
    path = saved(proto, tmp_path)
    error = refused("E322", run_check, path, tmp_path, declared, samples=samples, at=("model", "dims", "m"))
    assert "reshaped" in error.cause
    assert "/onnxruntime" not in error.cause


def test_an_output_that_is_an_input_is_served_by_a_name_of_its_own(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [floats("x", ["N", 4]), value("key", TensorProto.INT64, ["N"])],
        [floats("y", ["N", 3]), value("key", TensorProto.INT64, ["N"])],
        [stored("w", WEIGHTS)],
    )
    path = saved(proto, tmp_path)
    declared = signature({"x": ("float32", ["batch", 4]), "key": ("int64", ["batch"])}, ["y", "key_out"])
    names = {"outputs": {"key_out": "key"}}
    samples: dict[str, Array] = {"x": X, "key": np.arange(5)}
    written = run_convert(path, tmp_path, declared, names, samples).proto
    assert [each.name for each in written.graph.output] == ["y", "key_out"]
    recorded = run_check(path, tmp_path / "again", declared, names, samples).arrays("baseline.npz")
    np.testing.assert_array_equal(recorded["key_out"], np.arange(5))


@pytest.mark.parametrize("outside_too", [False, True])
def test_a_file_of_a_newer_ir_version_is_served_as_an_older_one(tmp_path: Path, outside_too: bool) -> None:
    proto = linear(ir=99)
    if outside_too:
        proto.graph.initializer[0].CopyFrom(outside("w", wide()))
        (tmp_path / "weights.bin").write_bytes(wide().tobytes())
        proto.graph.output[0].CopyFrom(floats("y", ["N", 2000]))
    path = saved(proto, tmp_path)
    said = f"the file is of IR version 99 and is read as {largest_ir_version()}, the newest that ONNX Runtime"
    notes = run_inspect(path, tmp_path).json("inspection.json")["notes"]
    assert [note["text"].startswith(said) for note in notes] == [True]
    written = run_convert(path, tmp_path, samples={"x": X}).proto
    assert (written.ir_version, written.opset_import[0].version) == (largest_ir_version(), OPSET)
    imported = run_check(path, tmp_path / "again", samples={"x": X})
    assert any(note.startswith(f"source: {said}") for note in imported.facts["notes"])
    expected = X @ (wide() if outside_too else WEIGHTS)
    np.testing.assert_allclose(imported.arrays("baseline.npz")["y"], expected, atol=1e-5)
    names: Names = {"inputs": {"x": "x"}, "outputs": {"y": "y"}}
    np.testing.assert_allclose(open_checked_file(path, names, 1).run({"x": X})["y"], expected, atol=1e-5)
