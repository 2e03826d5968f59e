"""Converting LiteRT models: ONNX with the spec's names, or the file as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from orchestrator.frameworks.litert.runtime import open_tflite
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepError
from tests.frameworks.tensorflow_case import Converted

pytestmark = pytest.mark.frameworks

Convert = Callable[[str], Converted]
ALL = [
    "tflite_cnn",
    "tflite_batch_of_one",
    "tflite_float_io",
    "tflite_integer_io",
    "tflite_two_in_two_out",
    "tflite_texts",
]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_a_model_converts_and_passes_verification(converted: Convert, name: str, format_name: str) -> None:
    case = converted(name)
    variant = case.variant(format_name)
    for dim, (low, high) in case.case.dims.items():
        assert {f"{dim} of {low}", f"{dim} of {high}"} <= set(variant.summary["checked"])
    verdict = case.verdict(format_name)
    assert verdict["passed"], verdict["gates"]


def test_the_onnx_file_has_the_names_the_order_and_the_dimensions_of_the_spec(converted: Convert) -> None:
    graph = onnx.load(str(converted("tflite_two_in_two_out").variant("onnx").folder / "model.onnx")).graph
    shapes = [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    assert shapes == [
        ("mask", ["batch", "length"]),
        ("ids", ["batch", "length"]),
        ("score", ["batch", 1]),
        ("tokens", ["batch", "length", 8]),
    ]


def test_channels_stay_where_they_are(converted: Convert) -> None:
    (value,) = onnx.load(str(converted("tflite_cnn").variant("onnx").folder / "model.onnx")).graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["batch", 8, 8, 1]


def test_quantized_models_stay_quantized_in_onnx(converted: Convert) -> None:
    model = onnx.load(str(converted("tflite_float_io").variant("onnx").folder / "model.onnx"))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    with pytest.raises(StepError, match="quantized already"):
        converted("tflite_float_io").variant("onnx", "int8")


def test_a_float_model_becomes_int8_through_onnx(converted: Convert) -> None:
    case = converted("tflite_cnn")
    assert case.variant("onnx", "int8").summary["method"] == "static"
    verdict = case.verdict("onnx", "int8")
    assert verdict["passed"], verdict["gates"]


def test_a_litert_model_is_not_quantized_again(converted: Convert) -> None:
    with pytest.raises(StepError, match="a LiteRT model cannot be quantized") as failure:
        converted("tflite_cnn").variant("tflite", "int8")
    assert failure.value.code == "E425"


def test_the_file_stays_as_it_is_and_is_called_by_the_specs_names(converted: Convert) -> None:
    case = converted("tflite_cnn")
    variant = case.variant("tflite")
    assert (variant.folder / "model.tflite").read_bytes() == case.weights.read_bytes()
    assert variant.summary["names"] == {"inputs": {}, "outputs": {"logits": "output_0"}}
    signature = Signature.from_json(case.imported.json("imported.json")["signature"])
    images = case.imported.arrays("samples.npz")["image"][:4]
    answer = open_tflite(variant.folder, signature, 1).run({"image": images})
    np.testing.assert_allclose(answer["logits"], case.imported.arrays("baseline.npz")["logits"][:4], atol=1e-4)


def test_an_operator_without_a_counterpart_is_named(converted: Convert) -> None:
    with pytest.raises(StepError) as failure:
        converted("buckets").variant("onnx")
    assert failure.value.code == "E422"
    assert failure.value.cause == "ONNX has no counterpart for the operator BUCKETIZE"
    assert converted("buckets").verdict("tflite")["passed"]


def test_a_variant_that_is_damaged_is_refused(converted: Convert, tmp_path: Path) -> None:
    case = converted("tflite_cnn")
    variant = case.variant("tflite").folder
    (tmp_path / "facts.json").write_bytes((variant / "facts.json").read_bytes())
    (tmp_path / "model.tflite").write_bytes((variant / "model.tflite").read_bytes()[:1000])
    with pytest.raises(StepError) as failure:
        open_tflite(tmp_path, Signature.from_json(case.imported.json("imported.json")["signature"]), 1)
    assert failure.value.code == "E420"
