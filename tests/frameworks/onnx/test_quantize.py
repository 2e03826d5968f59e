"""int8 of ONNX models that others exported: of any opset, with weights in a second file, quantized already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.pass_options import OnnxInt8Options
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


def _convolution(opset: int = 17, size: int = 8) -> Any:
    weights = np.random.default_rng(1).normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    return model(
        nodes, [floats("x", ["N", 3, size, size])], [floats("y", ["N", 16, 1, 1])], [stored("w", weights)], opset=opset
    )


def _quantize(root: Path, converted: Ran, options: OnnxInt8Options | None = None, name: str = "int8") -> Ran:
    folders = {part: root / name / part for part in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    inputs = {"model": converted.folder, "import": root / "import" / "output"}
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0, options=options).as_json(),
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


def _activation_scales(ran: Ran) -> dict[str, float]:
    """The scales of quantized activations, which are single numbers; those of weights have one for each channel."""
    return {
        tensor.name: float(numpy_helper.to_array(tensor))
        for tensor in onnx.load(ran.folder / "model.onnx").graph.initializer
        if tensor.name.endswith("_scale") and tensor.data_type == TensorProto.FLOAT and not tensor.dims
    }


def test_the_percentile_decides_the_ranges_of_activations(tmp_path: Path) -> None:
    images = np.random.default_rng(3).normal(size=(40, 3, 64, 64)).astype(np.float32)
    images[0, 0, 0, 0] = 100.0  # one value that all others pay for
    declared = signature({"x": ("float32", ["batch", 3, 64, 64])})
    converted = run_convert(saved(_convolution(size=64), tmp_path), tmp_path, declared, samples={"x": images})

    ranges = {}
    for percentile, method in ((100.0, "min-max"), (99.9, "percentile"), (99.0, "percentile")):
        ran = _quantize(tmp_path, converted, OnnxInt8Options(percentile=percentile), str(percentile))
        assert (ran.facts["method"], ran.facts["calibration"]["method"]) == ("static", method)
        ranges[percentile] = _activation_scales(ran)["x_scale"]
    assert ranges[99.0] < ranges[99.9] < ranges[100.0] / 2


def test_the_method_can_be_set_against_the_rule(tmp_path: Path) -> None:
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(method="static"))

    assert ran.facts["method"] == "static"
    assert 0 < _differs_by(converted.folder, ran.folder, FLAT, ROWS) < 0.1


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_weights_have_the_requested_bits_on_every_cpu(tmp_path: Path, bits: Literal[7, 8], largest: int) -> None:
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(weight_bits=bits))

    weights = [numpy_helper.to_array(t) for t in onnx.load(ran.folder / "model.onnx").graph.initializer]
    assert ran.facts["reduce_range"] is (bits == 7)
    assert (
        max(np.abs(array.astype(int)).max() for array in weights if array.dtype == np.int8 and array.ndim == 2)
        == largest
    )


@pytest.mark.parametrize(
    ("options", "option", "cause"),
    [
        (OnnxInt8Options(percentile=99.9), "percentile", "activations have dynamic ranges"),
        (OnnxInt8Options(method="dynamic"), "method", "dynamic is what `auto` chooses for this model"),
        (OnnxInt8Options(method="static", smoothing=0.5), "smoothing", "activations have static ranges"),
        (OnnxInt8Options(smoothing=0.5), "smoothing", "no activation of the model has outliers that smoothing moves"),
        (OnnxInt8Options(smoothing=0.0), "smoothing", "no activation of the model has outliers that smoothing moves"),
    ],
    ids=str,
)
def test_an_option_that_changes_nothing_is_refused(
    tmp_path: Path, options: OnnxInt8Options, option: str, cause: str
) -> None:
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    error = refused("E425", _quantize, tmp_path, converted, options)

    assert (error.message, error.cause) == (f"the option {option} changes nothing here", cause)


def test_an_opset_that_cannot_be_raised_is_reported(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Affine", ["h"], ["y"], alpha=2.0)]
    weights = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)
    proto = model(nodes, [floats("x", ["N", 64])], [floats("y", ["N", 10])], [stored("a", weights)], opset=9)
    converted = run_convert(saved(proto, tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    error = refused("E425", _quantize, tmp_path, converted)
    assert error.message == "the model's opset 9 is too old for int8"
    assert error.remedy == "export the model with opset 13 or later"


def test_an_already_quantized_model_is_refused(tmp_path: Path) -> None:
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


def test_a_float16_model_is_refused(tmp_path: Path) -> None:
    declared = signature({"x": ("float16", ["batch", 64])})
    samples = {"x": ROWS.astype(np.float16)}
    converted = run_convert(saved(_products(dtype=np.float16), tmp_path), tmp_path, declared, samples=samples)
    error = refused("E425", _quantize, tmp_path, converted)
    assert error.cause == "its weights are float16; int8 is made from float32 weights"


def test_a_model_with_text_inputs_is_quantized_after_them(tmp_path: Path) -> None:
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
