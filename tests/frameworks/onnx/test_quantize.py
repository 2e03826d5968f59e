"""int8 of ONNX models that others exported: of any opset, with weights in a second file, quantized already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from tests.frameworks.onnx.case import Ran, floats, model, refused, run_convert, saved, signature, stored, value

pytestmark = pytest.mark.frameworks

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(40, 64)).astype(np.float32)
IMAGES = RANDOM.normal(size=(40, 3, 8, 8)).astype(np.float32)
FLAT = signature({"x": ("float32", ["batch", 64])})
SQUARE = signature({"x": ("float32", ["batch", 3, 8, 8])})


def _products(opset: int = 17, dtype: Any = np.float32) -> Any:
    random = np.random.default_rng(1)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [stored(name, random.normal(size=(64, size)).astype(dtype)) for name, size in (("a", 64), ("b", 10))]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    return model(nodes, [value("x", kind, ["N", 64])], [value("y", kind, ["N", 10])], weights, opset=opset)


def _convolution(opset: int = 17) -> Any:
    weights = np.random.default_rng(1).normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    return model(
        nodes, [floats("x", ["N", 3, 8, 8])], [floats("y", ["N", 16, 1, 1])], [stored("w", weights)], opset=opset
    )


def _quantize(root: Path, converted: Ran) -> Ran:
    folders = {name: root / "int8" / name for name in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    inputs = {"model": converted.folder, "import": root / "import" / "output"}
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0).as_json(),
        inputs,
        folders["output"],
        folders["scratch"],
        root,
    )
    return Ran(context.output, to_int8(context))


def _differs_by(left: Path, right: Path, declared: dict[str, Any], x: Any) -> float:
    one, other = (open_onnx(path, Signature.from_json(declared), 1).run({"x": x})["y"] for path in (left, right))
    return float(np.abs(one - other).max() / np.abs(one).max())


@pytest.mark.parametrize("opset", [8, 11, 12, 13, 21])
@pytest.mark.parametrize(
    ("build", "declared", "x", "method"),
    [(_products, FLAT, ROWS, "dynamic"), (_convolution, SQUARE, IMAGES, "static")],
    ids=["products", "convolution"],
)
def test_models_of_any_opset_are_quantized(
    tmp_path: Path, build: Any, declared: dict[str, Any], x: Any, method: str, opset: int
) -> None:
    converted = run_convert(saved(build(opset), tmp_path), tmp_path, declared, samples={"x": x})
    quantized = _quantize(tmp_path, converted)
    assert quantized.facts["method"] == method
    assert 0 < _differs_by(converted.folder, quantized.folder, declared, x) < 0.05


@pytest.mark.parametrize(
    ("build", "declared", "x"),
    [(_products, FLAT, ROWS), (_convolution, SQUARE, IMAGES)],
    ids=["products", "convolution"],
)
def test_weights_in_a_second_file_are_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, declared: dict[str, Any], x: Any
) -> None:
    monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 100)
    converted = run_convert(saved(build(), tmp_path), tmp_path, declared, samples={"x": x})
    assert (converted.folder / "model.onnx.data").stat().st_size > 1000
    quantized = _quantize(tmp_path, converted)
    assert {file.name for file in quantized.folder.iterdir()} <= {"model.onnx", "model.onnx.data", "facts.json"}
    assert 0 < _differs_by(converted.folder, quantized.folder, declared, x) < 0.05


def test_an_opset_that_cannot_be_raised_is_told(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Affine", ["h"], ["y"], alpha=2.0)]
    weights = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    proto = model(nodes, [floats("x", ["N", 64])], [floats("y", ["N", 10])], [stored("a", weights)], opset=9)
    converted = run_convert(saved(proto, tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    error = refused("E425", _quantize, tmp_path, converted)
    assert error.message == "the model's opset 9 is too old for int8"
    assert error.remedy == "export the model with opset 13 or later"


def test_a_model_that_is_quantized_already_is_told(tmp_path: Path) -> None:
    proto = _products()
    proto.graph.node[1].CopyFrom(helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]))
    proto.graph.node.insert(2, helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["r"]))
    proto.graph.initializer.extend([stored("scale", np.array(0.1, np.float32)), stored("zero", np.array(0, np.int8))])
    converted = run_convert(saved(proto, tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    error = refused("E425", _quantize, tmp_path, converted)
    assert (error.message, error.cause) == (
        "the model is quantized already",
        "it uses DequantizeLinear, QuantizeLinear",
    )


def test_a_model_of_halves_is_told(tmp_path: Path) -> None:
    declared = signature({"x": ("float16", ["batch", 64])})
    samples = {"x": ROWS.astype(np.float16)}
    converted = run_convert(saved(_products(dtype=np.float16), tmp_path), tmp_path, declared, samples=samples)
    error = refused("E425", _quantize, tmp_path, converted)
    assert error.cause == "its weights are float16; int8 is made from float32 weights"


def test_a_model_that_takes_texts_is_quantized_behind_them(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(64)]
    weights = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    nodes = [
        helper.make_node("OneHotEncoder", ["word"], ["hot"], domain="ai.onnx.ml", cats_strings=words),
        helper.make_node("MatMul", ["hot", "a"], ["y"]),
    ]
    proto = model(
        nodes,
        [value("word", TensorProto.STRING, ["N"])],
        [floats("y", ["N", 10])],
        [stored("a", weights)],
        domains={"ai.onnx.ml": 1},
    )
    declared = signature({"word": ("string", ["batch"])})
    given = np.array(words[:40])
    converted = run_convert(saved(proto, tmp_path), tmp_path, declared, samples={"word": given})
    quantized = _quantize(tmp_path, converted)
    answer = open_onnx(quantized.folder, Signature.from_json(declared), 1).run({"word": given})["y"]
    np.testing.assert_allclose(answer, weights[:40], atol=0.05)
