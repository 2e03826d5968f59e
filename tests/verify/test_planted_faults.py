"""Wrong conversions that converters really make, planted into real variants one at a time: `verify` refuses each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.spec.gates import Precision
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, GraphOptimization, RuntimeOptions
from orchestrator.verify.step import verify
from tests.frameworks.onnx.case import floats, model, run_convert, saved, signature, stored
from tests.frameworks.verify_case import verify_params

pytestmark = pytest.mark.frameworks

Plant = Callable[[Any], None]


@dataclass(frozen=True)
class Made:
    """A model's import step and its right variants, fp32 and int8."""

    imported: Path
    variants: dict[Precision, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small network of a square image of three channels and of two vectors of the same size."""
    root = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(5)
    shapes = {"conv": (8, 3, 3, 3), "conv_bias": (8,), "dense": (24, 10), "dense_bias": (10,)}
    weights = [stored(name, random.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "conv", "conv_bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Concat", ["f", "query", "document"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "dense", "dense_bias"], ["logits"]),
    ]
    inputs = [floats("image", ["N", 3, 8, 8]), floats("query", ["N", 8]), floats("document", ["N", 8])]
    declared = signature(
        {
            "image": ("float32", ["batch", 3, 8, 8]),
            "query": ("float32", ["batch", 8]),
            "document": ("float32", ["batch", 8]),
        },
        ["logits"],
    )
    proto = model(nodes, inputs, [floats("logits", ["N", 10])], weights)
    samples = {
        "image": random.normal(size=(64, 3, 8, 8)).astype(np.float32),
        "query": random.normal(size=(64, 8)).astype(np.float32),
        "document": random.normal(size=(64, 8)).astype(np.float32),
    }
    converted = run_convert(saved(proto, root), root, declared, samples=samples)
    imported, quantized, scratch = root / "import" / "output", root / "int8", root / "scratch"
    quantized.mkdir()
    scratch.mkdir()
    parameters = OptimizeParameters(SourceParameters("onnx"), seed=0)
    to_int8(
        StepContext(parameters.as_json(), {"model": converted.folder, "import": imported}, quantized, scratch, root)
    )
    return Made(imported, {"fp32": converted.folder, "int8": quantized})


def _verdict(
    root: Path,
    made: Made,
    precision: Precision,
    plant: Plant | None = None,
    options: RuntimeOptions = DEFAULT_OPTIONS,
    gates: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    variant, output, scratch = (root / name for name in ("variant", "output", "scratch"))
    for folder in (variant, output, scratch):
        folder.mkdir()
    proto = onnx.load(str(made.variants[precision] / "model.onnx"))
    if plant is not None:
        plant(proto)
    onnx.save(proto, str(variant / "model.onnx"))
    declared, _ = read_import(made.imported)
    inputs = {"import": made.imported, "variant": variant}
    verify(
        StepContext(verify_params(declared, "onnx", precision, gates, options=options), inputs, output, scratch, root)
    )
    verdict: dict[str, Any] = json.loads((output / "verdict.json").read_text(encoding="utf-8"))
    return verdict


def _rename(proto: Any, names: dict[str, str]) -> None:
    """Rename what nodes read."""
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _before(proto: Any, name: str, *nodes: Any) -> None:
    """Let every node read `name` through these nodes, of which the last writes `name_planted`."""
    _rename(proto, {name: f"{name}_planted"})
    for node in reversed(nodes):
        proto.graph.node.insert(0, node)


def dropout_left_on(proto: Any) -> None:
    """Written in other operators: one in ten values is zero, at random."""
    proto.graph.initializer.extend(
        [stored("ratio", np.array(0.1, np.float32)), stored("kept", np.array(1 / 0.9, np.float32))]
    )
    maker = next(node for node in proto.graph.node if node.op_type == "Flatten")
    read, maker.output[0] = maker.output[0], "before_dropout"
    at = list(proto.graph.node).index(maker) + 1
    nodes = [
        helper.make_node("RandomUniformLike", ["before_dropout"], ["random"], seed=1.0),
        helper.make_node("Greater", ["random", "ratio"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["before_dropout", "mask"], ["masked"]),
        helper.make_node("Mul", ["masked", "kept"], [read]),
    ]
    for node in reversed(nodes):
        proto.graph.node.insert(at, node)


def dropout_in_training_mode(proto: Any) -> None:
    """As a model exported in training mode has it."""
    proto.graph.initializer.extend([stored("ratio", np.array(0.1, np.float32)), stored("training", np.array(True))])
    maker = next(node for node in proto.graph.node if node.op_type == "Flatten")
    read, maker.output[0] = maker.output[0], "before_dropout"
    at = list(proto.graph.node).index(maker) + 1
    proto.graph.node.insert(at, helper.make_node("Dropout", ["before_dropout", "ratio", "training"], [read]))


def inputs_swapped(proto: Any) -> None:
    _rename(proto, {"query": "document", "document": "query"})


def channels_reversed(proto: Any) -> None:
    """BGR for RGB."""
    proto.graph.initializer.append(stored("order", np.array([2, 1, 0], np.int64)))
    _before(proto, "image", helper.make_node("Gather", ["image", "order"], ["image_planted"], axis=1))


def channels_last(proto: Any) -> None:
    """The image read as if its last axis were the channels."""
    proto.graph.initializer.extend([stored("last", np.array([-1, 8, 8, 3], np.int64))])
    _before(
        proto,
        "image",
        helper.make_node("Reshape", ["image", "last"], ["image_last"]),
        helper.make_node("Transpose", ["image_last"], ["image_planted"], perm=[0, 3, 1, 2]),
    )


def rows_and_columns_exchanged(proto: Any) -> None:
    _before(proto, "image", helper.make_node("Transpose", ["image"], ["image_planted"], perm=[0, 1, 3, 2]))


def input_cut_to_integers(proto: Any) -> None:
    _before(
        proto,
        "query",
        helper.make_node("Cast", ["query"], ["query_cut"], to=TensorProto.INT32),
        helper.make_node("Cast", ["query_cut"], ["query_planted"], to=TensorProto.FLOAT),
    )


def output_of_another_dtype(proto: Any) -> None:
    (output,) = proto.graph.output
    maker = next(node for node in proto.graph.node if "logits" in node.output)
    maker.output[list(maker.output).index("logits")] = "logits_float"
    proto.graph.node.append(helper.make_node("Cast", ["logits_float"], ["logits"], to=TensorProto.INT64))
    output.type.tensor_type.elem_type = TensorProto.INT64


def weights_in_bfloat16(proto: Any) -> None:
    """A precision that the variant does not claim."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            bits = numpy_helper.to_array(tensor).view(np.uint32) & np.uint32(0xFFFF0000)
            tensor.CopyFrom(numpy_helper.from_array(bits.view(np.float32), tensor.name))


def _scaled(proto: Any, change: Callable[[Any], None], *, of_weights: bool) -> None:
    """Change the scale of the first convolution's weights, or of the image."""
    read = next(node for node in proto.graph.node if node.op_type == "Conv").input[1 if of_weights else 0]
    scale = next(node for node in proto.graph.node if read in node.output).input[1]
    tensor = next(each for each in proto.graph.initializer if each.name == scale)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def image_scaled(factor: float) -> Plant:
    """The range of the image that is not cut off is this part of what it is, as by a calibration on inputs of another magnitude."""

    def plant(proto: Any) -> None:
        def multiply(scale: Any) -> None:
            scale *= factor

        _scaled(proto, multiply, of_weights=False)

    return plant


def channel_scaled(factor: float) -> Plant:
    """The weights of one channel are this many times as large."""

    def plant(proto: Any) -> None:
        def multiply(scales: Any) -> None:
            scales[3] *= factor

        _scaled(proto, multiply, of_weights=True)

    return plant


def scales_of_channels_shifted(proto: Any) -> None:
    """Each channel's scale at its neighbour's place."""

    def shift(scales: Any) -> None:
        scales[:] = np.roll(scales, 1)

    _scaled(proto, shift, of_weights=True)


PLANTED: list[tuple[Plant, Precision]] = [
    *((plant, precision) for plant in (dropout_left_on, inputs_swapped, channels_reversed, channels_last, rows_and_columns_exchanged, input_cut_to_integers, output_of_another_dtype) for precision in ("fp32", "int8")),
    (weights_in_bfloat16, "fp32"),
    (scales_of_channels_shifted, "int8"),
]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_variants_pass_as_they_are(tmp_path: Path, made: Made, precision: Precision) -> None:
    assert _verdict(tmp_path, made, precision)["passed"]


@pytest.mark.parametrize(
    ("plant", "precision"), PLANTED, ids=[f"{plant.__name__}-{precision}" for plant, precision in PLANTED]
)
def test_a_planted_fault_is_refused(tmp_path: Path, made: Made, plant: Plant, precision: Precision) -> None:
    verdict = _verdict(tmp_path, made, precision, plant)

    assert not verdict["passed"]
    assert any(not gate["passed"] and gate["output"] == "logits" for gate in verdict["gates"])


@pytest.mark.parametrize(
    ("plant", "by_default", "strictly"),
    [
        pytest.param(None, True, True, id="right"),
        pytest.param(image_scaled(0.25), False, False, id="a quarter of the range"),
        pytest.param(image_scaled(0.4), False, False, id="two fifths of the range"),
        pytest.param(image_scaled(0.5), True, False, id="half of the range"),
        pytest.param(image_scaled(2), True, True, id="twice the range"),
        pytest.param(channel_scaled(0.25), False, False, id="a channel divided by four"),
        pytest.param(channel_scaled(0.5), True, False, id="a channel halved"),
        pytest.param(channel_scaled(1.5), True, False, id="a channel half as large again"),
        pytest.param(channel_scaled(2), False, False, id="a channel doubled"),
    ],
)
def test_a_wrong_scale_is_refused_from_the_size_that_the_page_states(
    tmp_path: Path, made: Made, plant: Plant | None, by_default: bool, strictly: bool
) -> None:
    """docs/verify.md, "How large a fault is found"; strictly: with `min_cosine: {int8: 0.999}`."""
    for number, (gates, passed) in enumerate([({}, by_default), ({"min_cosine": 0.999}, strictly)]):
        root = tmp_path / str(number)
        root.mkdir()
        assert _verdict(root, made, "int8", plant, gates=gates)["passed"] is passed


@pytest.mark.parametrize(("optimization", "passed"), [("all", True), ("extended", True), ("disabled", False)])
def test_a_dropout_node_is_judged_as_its_runtime_runs_it(
    tmp_path: Path, made: Made, optimization: GraphOptimization, passed: bool
) -> None:
    """ONNX Runtime removes such a node when it optimizes the graph, even in training mode, and runs it otherwise."""
    options = RuntimeOptions(graph_optimization=optimization)
    assert _verdict(tmp_path, made, "fp32", dropout_in_training_mode, options)["passed"] is passed


def test_a_dropout_node_that_its_runtime_keeps_is_refused(tmp_path: Path, made: Made) -> None:
    """It does not remove one that reads an input of the model."""

    def plant(proto: Any) -> None:
        proto.graph.initializer.extend([stored("ratio", np.array(0.1, np.float32)), stored("training", np.array(True))])
        _before(proto, "query", helper.make_node("Dropout", ["query", "ratio", "training"], ["query_planted"]))

    assert not _verdict(tmp_path, made, "fp32", plant)["passed"]
