"""Smoothing before int8: channels that are far larger than the others no longer determine the range."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.onnx.smooth import smooth
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.pass_options import OnnxInt8Options
from tests.artifacts.made import imported as imported_model

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array

pytestmark = pytest.mark.frameworks

WIDTH, OUT = 32, 16
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((WIDTH, OUT)).astype(np.float32)
BIAS = RNG.standard_normal(OUT).astype(np.float32)


def rows(count: int, outlier: float) -> Array:
    """Rows whose channel 3 is `outlier` times as large as the others."""
    array = np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32)
    array[:, 3] *= outlier
    return array


def model(folder: Path, nodes: list[Any], weights: dict[str, Array], opset: int = 20) -> Path:
    folder.mkdir()
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUT])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(made, folder / "model.onnx")
    return folder / "model.onnx"


def matmul(folder: Path, opset: int = 20) -> Path:
    return model(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHTS}, opset)


def gemm(folder: Path, opset: int = 20) -> Path:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    return model(folder, [node], {"w": np.ascontiguousarray(WEIGHTS.T), "b": BIAS}, opset)


def run(path: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("make", [matmul, gemm])
def test_a_smoothed_model_has_the_same_outputs(tmp_path: Path, make: Any, opset: int) -> None:
    path = make(tmp_path / "model", opset)
    x = rows(8, 50)
    before = run(path, x)

    assert smooth(path, tmp_path, [{"x": x[:5]}, {"x": x[5:]}], strength=0.7, large=False) == 1

    np.testing.assert_allclose(run(path, x), before, rtol=1e-4, atol=1e-4)


def test_weights_in_a_second_file_stay_there(tmp_path: Path) -> None:
    path = matmul(tmp_path / "model")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    x = rows(8, 50)
    before = run(path, x)

    assert smooth(path, tmp_path, [{"x": x}], strength=0.7, large=True) == 1

    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (path.parent / "model.onnx.data").stat().st_size < 2 * WEIGHTS.nbytes
    np.testing.assert_allclose(run(path, x), before, rtol=1e-4, atol=1e-4)


def test_channels_of_similar_magnitude_are_not_changed(tmp_path: Path) -> None:
    path = matmul(tmp_path / "model")
    before = path.read_bytes()

    assert smooth(path, tmp_path, [{"x": rows(8, 1)}], strength=0.7, large=False) == 0

    assert path.read_bytes() == before


def test_weights_that_several_products_share_are_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("MatMul", ["positive", "w"], ["second"]),
        helper.make_node("Add", ["first", "second"], ["y"]),
    ]
    path = model(tmp_path / "model", nodes, {"w": WEIGHTS})

    assert smooth(path, tmp_path, [{"x": rows(8, 50)}], strength=0.7, large=False) == 0


def test_channels_that_are_zero_stay_finite(tmp_path: Path) -> None:
    weights = WEIGHTS.copy()
    weights[5] = 0
    path = model(tmp_path / "model", [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights})
    x = rows(8, 50)
    x[:, 7] = 0
    before = run(path, x)

    assert smooth(path, tmp_path, [{"x": x}], strength=0.7, large=False) == 1

    np.testing.assert_allclose(run(path, x), before, rtol=1e-4, atol=1e-4)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """What the import step leaves, as far as the quantizer reads it: rows with an outlier."""
    folder = tmp_path / "import"
    folder.mkdir()
    signature = Signature(
        (Tensor("x", "float32", ("batch", WIDTH)),),
        (Tensor("y", "float32", ("batch", OUT)),),
        {"batch": (1, 64)},
        "batch",
    )
    imported_model(signature).write(folder)
    np.savez(folder / "samples.npz", x=rows(64, 50))
    return folder


def quantized(
    root: Path, name: str, source: Path, imported: Path, options: OnnxInt8Options | None = None
) -> tuple[Path, dict[str, Any]]:
    for part in ("output", "scratch"):
        (root / name / part).mkdir(parents=True)
    variant_facts(format="onnx", exporter="given").write(source.parent)
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0, options=options).as_json(),
        {"model": source.parent, "import": imported},
        root / name / "output",
        root / name / "scratch",
        root,
    )
    return context.output / "model.onnx", to_int8(context)


def evaluated(path: Path, x: Array) -> Array:
    """What the model answers by the standard's own definition, which no CPU's instructions round or saturate."""
    (y,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize(("reduced", "times"), [(False, 3), (True, 1.25)], ids=["8-bit weights", "7-bit weights"])
def test_smoothing_reduces_the_error_of_int8_if_a_channel_stands_out(
    tmp_path: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, reduced: bool, times: float
) -> None:
    monkeypatch.setattr("orchestrator.frameworks.onnx.quantize.saturates", lambda _: reduced)
    source, x = matmul(tmp_path / "model"), rows(64, 50)
    x[:, 3] = 0.01  # what the other channels say shows where the large one happens to be small
    x[0, 3] = 100
    expected = evaluated(source, x)
    smoothed, facts = quantized(tmp_path, "smoothed", source, imported)
    plain, without = quantized(tmp_path, "plain", source, imported, OnnxInt8Options(smoothing=0.0))

    assert (facts["smoothed"], facts["reduce_range"]) == (1, reduced)
    assert (without["smoothed"], "calibration" in without) == (0, False)
    assert facts["calibration"]["rows"] == 32
    error, before = (np.abs(evaluated(path, x) - expected)[1:].max() for path in (smoothed, plain))
    assert error < before / times


def test_int8_of_the_same_model_has_the_same_bytes(tmp_path: Path, imported: Path) -> None:
    source = matmul(tmp_path / "model")

    first, second = (quantized(tmp_path, name, source, imported)[0].read_bytes() for name in ("first", "second"))

    assert first == second


def test_the_standards_attention_is_left_as_it_is(tmp_path: Path, imported: Path) -> None:
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axis"], ["one"]),
        helper.make_node("Attention", ["one", "one", "one"], ["attended"], **heads),
        helper.make_node("Squeeze", ["attended", "axis"], ["y"]),
    ]
    source = model(tmp_path / "model", nodes, {"w": WEIGHTS, "axis": np.array([0], np.int64)}, opset=23)

    path, _ = quantized(tmp_path, "int8", source, imported)

    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "Attention" in operators
    assert "MatMulInteger" in operators
    assert np.isfinite(run(path, rows(4, 1))).all()
