"""int8 variants: within their gates, smaller, the same bytes each time, and refused where nothing is gained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.pytorch.convert import to_onnx
from orchestrator.machine.instructions import cpu_flags, saturates
from orchestrator.steps.context import StepError
from orchestrator.verify.step import verify
from tests.frameworks.verify_case import verify_params

if TYPE_CHECKING:
    from conftest import BuildCase, Case

pytestmark = pytest.mark.frameworks


Convert = Callable[["Case"], dict[str, Path]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """The inputs of the step for a case; each of its models is converted once."""
    folder = tmp_path_factory.mktemp("converted")

    def convert(built: Case) -> dict[str, Path]:
        model = folder / built.weights.stem
        if not model.exists():
            context = built.context("convert")
            to_onnx(context)
            context.output.rename(model)
        return {"model": model, "import": built.imported}

    return convert


@pytest.mark.parametrize(("model", "method"), [("Cnn", "static"), ("Attention", "dynamic")])
def test_a_quantized_model_passes_the_gates_of_int8(
    case: BuildCase, converted: Convert, model: str, method: str
) -> None:
    built = case(model)
    context = built.context("quantize", converted(built), seed=0)

    facts = to_int8(context)

    assert facts["method"] == method
    inputs = {"import": built.imported, "variant": context.output}
    check = replace(built.context("verify", inputs), params=verify_params(built.signature, "onnx", "int8"))
    summary = verify(check)
    assert summary["passed"], summary["failed"]
    verdict = json.loads((check.output / "verdict.json").read_text("utf-8"))
    assert any(gate["measured"] > 1e-4 for gate in verdict["gates"] if gate["gate"] == "max_abs_error")
    edge_cases = {case["case"] for case in verdict["cases"] if case["kind"] == "edge"}
    gated = {gate["case"] for gate in verdict["gates"] if gate["gate"] != "finite"}
    assert edge_cases
    assert not gated & edge_cases


def test_weights_are_signed_per_channel_and_activations_unsigned(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    context = built.context("quantize", converted(built), seed=0)
    to_int8(context)

    graph = onnx.load(str(context.output / "model.onnx")).graph

    initializers = {tensor.name: tensor for tensor in graph.initializer}
    zero_points = [initializers[n.input[2]] for n in graph.node if n.op_type == "DequantizeLinear" and len(n.input) > 2]
    assert {TensorProto.INT8, TensorProto.UINT8} <= {tensor.data_type for tensor in zero_points}
    signed = [tensor for tensor in zero_points if tensor.data_type == TensorProto.INT8]
    assert max(len(onnx.numpy_helper.to_array(t).reshape(-1)) for t in signed) >= 8


def test_the_same_model_gives_the_same_bytes(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    inputs = converted(built)
    first, second = (built.context(name, inputs, seed=0) for name in ("first", "second"))

    to_int8(first)
    to_int8(second)

    one, other = (context.output / "model.onnx" for context in (first, second))
    assert one.read_bytes() == other.read_bytes()
    assert str(built.root).encode() not in one.read_bytes()


def test_the_converted_model_is_left_alone(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    inputs = converted(built)
    before = {path.name: path.read_bytes() for path in inputs["model"].iterdir()}

    to_int8(built.context("quantize", inputs, seed=0))

    assert {path.name: path.read_bytes() for path in inputs["model"].iterdir()} == before


def test_a_model_with_nothing_to_quantize_is_refused(case: BuildCase) -> None:
    built = case("Cnn")
    shutil.rmtree(built.root / "import" / "edge")
    model = built.root / "relu"
    model.mkdir()
    shape = [None, 1, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "relu",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), model / "model.onnx"
    )

    with pytest.raises(StepError, match="nothing to quantize") as failure:
        to_int8(built.context("quantize", {"model": model, "import": built.imported}, seed=0))

    assert failure.value.code == "E425"


def test_more_samples_than_needed_are_chosen_by_the_seed(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    rng = np.random.default_rng(1)
    np.savez(built.imported / "samples.npz", image=rng.standard_normal((600, 1, 8, 8)).astype(np.float32))
    inputs = converted(built)

    digests = set()
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        context = built.context(run, inputs, seed=seed)
        calibration = to_int8(context)["calibration"]
        assert (calibration["rows"], calibration["unseen"]) == (128, 472)
        digests.add((context.output / "model.onnx").read_bytes())

    assert len(digests) == 2


def test_verify_sees_rows_that_the_calibration_did_not(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    samples = built.imported / "samples.npz"
    inputs = converted(built)
    images = np.random.default_rng(1).standard_normal((40, 1, 8, 8)).astype(np.float32)
    models, notes = [], []
    for run, scale in (("a", 1), ("b", 100)):
        images[1::2] *= scale  # rows that are kept from the calibration may hold anything
        np.savez(samples, image=images)
        context = built.context(run, inputs, seed=0)
        facts = to_int8(context)
        assert (facts["calibration"]["rows"], facts["calibration"]["unseen"]) == (20, 20)
        models.append((context.output / "model.onnx").read_bytes())
        notes.append(facts["notes"])
    assert models[0] == models[1]
    assert notes == [[], []]


def test_too_few_rows_to_prove_int8_are_noted(case: BuildCase, converted: Convert) -> None:
    built = case("Cnn")
    inputs = converted(built)
    np.savez(built.imported / "samples.npz", image=np.ones((5, 1, 8, 8), np.float32))

    facts = to_int8(built.context("quantize", inputs, seed=0))

    assert facts["notes"] == ["int8 was calibrated on 3 of 5 samples and verified on only 2 others"]


@pytest.mark.parametrize(
    ("flags", "reduced"), [("fpu sse2 avx2 avx512f", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False)]
)
def test_weights_have_seven_bits_if_the_cpu_would_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, reduced: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n", encoding="utf-8")

    assert saturates(cpu_flags(tmp_path / "cpuinfo")) is reduced


def test_other_processors_need_no_reduced_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")

    assert saturates(cpu_flags(tmp_path / "absent")) is False
