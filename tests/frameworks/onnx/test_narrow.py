"""fp16 and int4 variants of ONNX models: smaller, close, with the same interface, and refused where nothing is gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.narrow import to_fp16, to_int4
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.pass_options import OnnxInt4Options
from tests.frameworks.onnx.case import Ran, floats, model, refused, run_convert, saved, signature, stored

pytestmark = pytest.mark.frameworks

X = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
DECLARED = signature({"x": ("float32", ["batch", 64])})


def _dense() -> Any:
    """A product with a bias and one without, as `Gemm` and `MatMul`."""
    random = np.random.default_rng(1)
    shapes = {"first": (32, 64), "bias": (32,), "second": (32, 10)}
    weights = [stored(name, random.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    return model(nodes, [floats("x", ["N", 64])], [floats("y", ["N", 10])], weights, opset=21)


def _narrowed(root: Path, step: Any, converted: Ran, options: OnnxInt4Options | None = None, name: str = "a") -> Ran:
    folders = {part: root / name / part for part in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0, options=options).as_json(),
        {"model": converted.folder, "import": root / "import" / "output"},
        folders["output"],
        folders["scratch"],
        root,
    )
    return Ran(context.output, step(context))


def _error(converted: Ran, other: Ran) -> float:
    one, two = (
        open_onnx(each.folder, Signature.from_json(DECLARED), 1).run({"x": X})["y"] for each in (converted, other)
    )
    assert one.dtype == two.dtype == np.float32
    return float(np.abs(one - two).max() / np.abs(one).max())


@pytest.mark.parametrize("large", [False, True])
def test_float16_keeps_inputs_and_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> None:
    if large:
        monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 100)
    converted = run_convert(saved(_dense(), tmp_path), tmp_path, DECLARED, samples={"x": X})

    ran = _narrowed(tmp_path, to_fp16, converted)

    assert ran.facts["precision"] == "fp16"
    assert {tensor.data_type for tensor in ran.proto.graph.initializer if tensor.dims} == {TensorProto.FLOAT16}
    assert (ran.folder / "model.onnx.data").is_file() is large
    assert 0 < _error(converted, ran) < 0.005


def test_weights_are_stored_in_four_bits(tmp_path: Path) -> None:
    converted = run_convert(saved(_dense(), tmp_path), tmp_path, DECLARED, samples={"x": X})

    ran, fine, rounded = (
        _narrowed(tmp_path, to_int4, converted, options, f"int4-{number}")
        for number, options in enumerate((None, OnnxInt4Options(block=16), OnnxInt4Options(activations="int8")))
    )

    assert (ran.facts["precision"], ran.facts["method"]) == ("int4", "weights")
    products = [node for node in ran.proto.graph.node if node.op_type == "MatMulNBits"]
    values = [{each.name: helper.get_attribute_value(each) for each in node.attribute} for node in products]
    assert [(each["bits"], each["block_size"]) for each in values] == [(4, 32), (4, 32)]
    assert 0 < _error(converted, fine) < _error(converted, ran) < 0.2
    assert 0 < _error(converted, rounded) < 0.2


@pytest.mark.parametrize(("step", "message"), [(to_fp16, "narrow"), (to_int4, "quantize")])
def test_a_model_without_such_weights_is_refused(tmp_path: Path, step: Any, message: str) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [floats("x", ["N", 64])], [floats("y", ["N", 64])])
    converted = run_convert(saved(proto, tmp_path), tmp_path, DECLARED, samples={"x": X})

    assert refused("E425", _narrowed, tmp_path, step, converted).message == f"the model has nothing to {message}"
    assert onnx.load(converted.folder / "model.onnx").graph.node[0].op_type == "Relu"


def test_options_of_int4_are_checked() -> None:
    with pytest.raises(ValueError, match="block of int4 is one of 16, 32, 64, 128, not 7"):
        OnnxInt4Options(block=7)  # type: ignore[arg-type] # on purpose
