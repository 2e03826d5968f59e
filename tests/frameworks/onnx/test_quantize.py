"""int8 of ONNX models that others exported: of any opset, with weights in a second file, quantized already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx import quantize as onnx_quantize
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.frameworks.source.runtime import Runtime
from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.pass_options import OnnxInt8Options
from orchestrator.verify.gates import Gates
from orchestrator.verify.step import holds_gates
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


def _quantize(
    root: Path,
    converted: Ran,
    options: OnnxInt8Options | None = None,
    name: str = "int8",
    gates: dict[str, float] | None = None,
    time_budget: float | None = None,
    judged_in: tuple[str, ...] = (),
) -> Ran:
    folders = {part: root / name / part for part in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    inputs = {"model": converted.folder, "import": root / "import" / "output"}
    context = StepContext(
        OptimizeParameters(
            SourceParameters("onnx"),
            seed=0,
            options=options,
            gates=gates,
            judged_in=judged_in,
            time_budget=time_budget,
        ).as_json(),
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
        (OnnxInt8Options(types="s8s8"), "types", "dynamic ranges are always those of unsigned numbers"),
        (OnnxInt8Options(calibration="entropy"), "calibration", "activations have dynamic ranges"),
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


def _one_sensitive_layer() -> Any:
    """Three products. The weights of the second that its largest ones make zero in int8 are those that matter."""
    random = np.random.default_rng(4)
    first, second, third = (random.normal(size=size).astype(np.float32) for size in ((64, 64), (64, 64), (64, 10)))
    first[:, 0] *= 1e-4  # so that the large weights, which it is multiplied with, change nothing
    second[0] *= 1e3
    nodes = [
        helper.make_node("MatMul", ["x", "net.first.weight"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "net.second.weight"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "net.third.weight"], ["y"]),
    ]
    weights = [stored(f"net.{n}.weight", w) for n, w in (("first", first), ("second", second), ("third", third))]
    return model(nodes, [floats("x", ["N", 64])], [floats("y", ["N", 10])], weights)


def _holds(root: Path, ran: Ran, gates: dict[str, float]) -> bool:
    imported = root / "import" / "output"
    runtime = open_onnx(ran.folder, Signature.from_json(FLAT), 1)
    return holds_gates(runtime, imported, Gates(DEFAULT_GATES["int8"], gates))


@pytest.mark.parametrize("method", ["auto", "static"])
def test_layers_without_which_int8_holds_its_gates_stay_in_float(
    tmp_path: Path, method: Literal["auto", "static"]
) -> None:
    converted = run_convert(saved(_one_sensitive_layer(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    plain = _quantize(tmp_path, converted, OnnxInt8Options(method=method), "plain")
    assert not _holds(tmp_path, plain, {})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(method=method, exclude="auto"), "mixed")

    assert _holds(tmp_path, ran, {})
    assert [(each["name"], each["operator"]) for each in ran.facts["float_layers"]] == [("net.second", "MatMul")]
    assert ran.facts["float_layers"][0]["error"] > 0.3
    assert any("1 layer stays in float32" in note and "net.second" in note for note in ran.facts["notes"])
    assert (
        sum(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2 for tensor in ran.proto.graph.initializer)
        == 2
    )


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (OnnxInt8Options(method="static", percentile=99.0), "percentile"),
        (OnnxInt8Options(method="static", calibration="entropy"), "entropy"),
    ],
    ids=["percentile", "entropy"],
)
def test_static_ranges_of_products_need_not_hold_every_outlier(
    tmp_path: Path, options: OnnxInt8Options, method: str
) -> None:
    rows = ROWS.copy()
    rows[::8, 0] = 300.0
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": rows})
    whole = _quantize(tmp_path, converted, OnnxInt8Options(method="static"), "whole")

    ran = _quantize(tmp_path, converted, options, method)

    assert ran.facts["calibration"]["method"] == method
    assert _activation_scales(ran)["x_scale"] < 0.5 * _activation_scales(whole)["x_scale"]


def test_histograms_are_collected_from_one_call_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activations of all calls together may not fit into memory."""
    held: list[int] = []
    collect = HistogramCollector.collect

    def counted(self: HistogramCollector, given: dict[str, list[Any]]) -> None:
        held.append(max(map(len, given.values())))
        collect(self, given)

    monkeypatch.setattr(HistogramCollector, "collect", counted)
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    _quantize(tmp_path, converted, OnnxInt8Options(method="static", percentile=99.9))

    assert held == [1] * len(held)
    assert len(held) > 1


def test_layers_are_left_out_for_the_runtimes_that_are_to_run_the_model(tmp_path: Path) -> None:
    """What holds the gates in one runtime may fail them in another; all that are asked for have to hold them."""
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    other = f"{__name__}:open_where_all_int8_is_wrong"

    usual = refused("E425", _quantize, tmp_path, converted, OnnxInt8Options(exclude="auto"), "usual")
    ran = _quantize(tmp_path, converted, OnnxInt8Options(exclude="auto"), "other", judged_in=(other,))

    assert usual.cause == "the gates hold with every layer in int8"
    assert len(ran.facts["float_layers"]) == 1


class _Wrong:
    """A runtime that computes something else from a model whose layers are all in int8."""

    def __init__(self, runtime: Runtime, wrong: bool) -> None:
        self._runtime, self._wrong = runtime, wrong

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        found = self._runtime.run(inputs)
        return {name: -each if self._wrong else each for name, each in found.items()}

    def facts(self) -> RuntimeFacts:
        return self._runtime.facts()


def open_where_all_int8_is_wrong(directory: Path, signature: Signature, threads: int, accelerator: str) -> _Wrong:
    operators = [node.op_type for node in onnx.load(str(directory / "model.onnx")).graph.node]
    return _Wrong(open_onnx(directory, signature, threads), wrong="MatMul" not in operators)


def test_without_time_a_set_that_holds_is_found_and_told_to_be_hurried(tmp_path: Path) -> None:
    """With no time to rank and to bisect, all layers but one are left out, where one would be enough."""
    converted = run_convert(saved(_one_sensitive_layer(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(exclude="auto"), time_budget=0.0)

    assert _holds(tmp_path, ran, {})
    assert [each["name"] for each in ran.facts["float_layers"]] == ["net.first", "net.second"]
    assert any(
        "with a longer `optimize.time_budget`, fewer layers might be found to be enough" in n
        for n in ran.facts["notes"]
    )


def test_preparing_the_graph_takes_from_the_time_for_leaving_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since a step that has used up all of its time is stopped, and leaves nothing."""
    converted = run_convert(saved(_one_sensitive_layer(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})
    given: list[float] = []

    def leave_out(*_: object, seconds: float) -> None:
        given.append(seconds)
        raise StepError("E425", "no layer is looked for")

    monkeypatch.setattr(onnx_quantize, "leave_out", leave_out)
    refused("E425", _quantize, tmp_path, converted, OnnxInt8Options(exclude="auto"), time_budget=100.0)

    assert given[0] < 100.0


def test_nothing_is_left_out_of_a_model_that_holds_its_gates(tmp_path: Path) -> None:
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    error = refused("E425", _quantize, tmp_path, converted, OnnxInt8Options(exclude="auto"))

    assert error.cause == "the gates hold with every layer in int8"


def test_gates_that_no_layer_holds_in_int8_are_told(tmp_path: Path) -> None:
    converted = run_convert(saved(_one_sensitive_layer(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    options = OnnxInt8Options(exclude="auto")
    error = refused("E425", _quantize, tmp_path, converted, options, gates={"max_abs_error": 1e-9})

    assert error.message == "no layer can be quantized within the gates"


def test_weights_alone_are_stored_in_blocks(tmp_path: Path) -> None:
    converted = run_convert(saved(_products(), tmp_path), tmp_path, FLAT, samples={"x": ROWS})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(method="weights"))

    assert (ran.facts["method"], ran.facts["precision"]) == ("weights", "int8")
    assert [node.op_type for node in ran.proto.graph.node].count("MatMulNBits") == 2
    assert 0 < _differs_by(converted.folder, ran.folder, FLAT, ROWS) < 0.02
    other = OnnxInt8Options(method="weights", percentile=99.0)
    assert refused("E425", _quantize, tmp_path, converted, other, "other").cause == "only weights are in int8"


@pytest.mark.parametrize("types", ["u8u8", "s8s8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_types_and_scales_are_those_that_are_asked_for(
    tmp_path: Path, types: Literal["u8u8", "s8s8"], *, per_channel: bool
) -> None:
    converted = run_convert(saved(_convolution(), tmp_path), tmp_path, SQUARE, samples={"x": IMAGES})

    ran = _quantize(tmp_path, converted, OnnxInt8Options(types=types, per_channel=per_channel))

    kinds = {TensorProto.UINT8: "u8", TensorProto.INT8: "s8"}
    tensors = {tensor.name: tensor for tensor in ran.proto.graph.initializer}
    assert kinds[tensors["x_zero_point"].data_type] + kinds[tensors["w_quantized"].data_type] == types
    assert list(tensors["w_scale"].dims) == ([16] if per_channel else [])
    assert 0 < _differs_by(converted.folder, ran.folder, SQUARE, IMAGES) < 0.1


def test_ranges_can_be_those_of_the_least_loss_of_information(tmp_path: Path) -> None:
    images = np.random.default_rng(3).normal(size=(40, 3, 8, 8)).astype(np.float32)
    images[0, 0, 0, 0] = 100.0
    converted = run_convert(saved(_convolution(), tmp_path), tmp_path, SQUARE, samples={"x": images})

    usual, entropy = (
        _quantize(tmp_path, converted, options, name)
        for options, name in ((None, "usual"), (OnnxInt8Options(calibration="entropy"), "entropy"))
    )

    assert entropy.facts["calibration"]["method"] == "entropy"
    assert _activation_scales(entropy)["x_scale"] < _activation_scales(usual)["x_scale"] / 2


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
    assert "give the model as it was before quantization" in error.remedy
    before = run_convert(saved(_products(), tmp_path / "before"), tmp_path / "before", FLAT, samples={"x": ROWS})
    _quantize(tmp_path / "before", before)


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
