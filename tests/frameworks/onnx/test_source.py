"""ONNX models as given: what is read from the file, and how the model is proven and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.file import checker_error, read_onnx
from orchestrator.frameworks.onnx.source import open_baseline
from orchestrator.spec.signature import Signature
from orchestrator.steps.parameters import SourceParameters, TensorNames
from tests.frameworks.onnx.case import (
    WEIGHTS,
    X,
    floats,
    linear,
    model,
    run_check,
    run_inspect,
    saved,
    signature,
    stored,
    value,
)

pytestmark = pytest.mark.frameworks


def test_tensors_are_found_with_their_own_names_types_and_dimensions(tmp_path: Path) -> None:
    proto = model(
        [
            helper.make_node("Cast", ["in/0:0"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
            helper.make_node("StringConcat", ["words", "words"], ["twice"]),
        ],
        [
            value("in/0:0", TensorProto.INT64, ["N", 4]),
            value("words", TensorProto.STRING, [None, -1]),
            value("anything", TensorProto.BOOL, None),
            value("one", TensorProto.FLOAT16, []),
        ],
        [floats("y", ["N", "N + 1"]), value("twice", TensorProto.STRING, None)],
        [stored("w", WEIGHTS)],
        opset=20,
    )
    found = run_inspect(saved(proto, tmp_path), tmp_path).json("inspection.json")
    assert [(t["tensor"], t["dtype"], t["shape"]) for t in found["inputs"]] == [
        ("in/0:0", "int64", ["N", 4]),
        ("words", "string", [None, None]),
        ("anything", "bool", None),
        ("one", "float16", []),
    ]
    assert [(t["tensor"], t["dtype"], t["shape"]) for t in found["outputs"]] == [
        ("y", "float32", ["N", "N + 1"]),
        ("twice", "string", None),
    ]
    assert (found["files"], found["notes"]) == ([], [])


def test_initializers_are_not_reported_as_inputs(tmp_path: Path) -> None:
    proto = linear(opset=8, ir=3)
    proto.graph.input.append(floats("w", [4, 3]))
    ran = run_inspect(saved(proto, tmp_path), tmp_path)
    assert [tensor["tensor"] for tensor in ran.json("inspection.json")["inputs"]] == ["x"]
    assert ran.facts == {"inputs": 1, "outputs": 1, "opset": 8, "files": 0}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 22])
def test_a_model_of_any_opset_answers_as_it_should(tmp_path: Path, opset: int) -> None:
    ran = run_check(saved(linear(opset=opset), tmp_path), tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS, rtol=1e-5)
    resolved = Signature.from_json(ran.json("imported.json")["signature"])
    assert (resolved.outputs[0].dtype, resolved.outputs[0].shape) == ("float32", ("batch", 3))
    assert ran.facts["parameters"] == 12


def test_the_baseline_is_the_model_called_by_the_specs_names(tmp_path: Path) -> None:
    inputs, outputs = {"image": "x:0"}, {"logits": "y:0"}
    declared = signature({"image": ("float32", ["batch", 4])}, ["logits"])
    path = saved(linear(inputs="x:0", outputs="y:0"), tmp_path)
    ran = run_check(path, tmp_path, declared, {"inputs": inputs, "outputs": outputs}, {"image": X})
    runtime = open_baseline(
        SourceParameters("onnx", names=TensorNames(inputs, outputs)),
        {"weights": path},
        tmp_path,
        Signature.from_json(ran.json("imported.json")["signature"]),
        2,
    )
    np.testing.assert_allclose(runtime.run({"image": X})["logits"], X @ WEIGHTS, rtol=1e-5)
    assert runtime.facts().threads == 2


def test_text_inputs_work(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("LabelEncoder", ["word"], ["id"], domain="ai.onnx.ml", keys_strings=["a", "ä"], values_int64s=[3, 4], default_int64=-1)],
        [value("word", TensorProto.STRING, ["N"])],
        [value("id", TensorProto.INT64, ["N"])],
        domains={"ai.onnx.ml": 2},
    )  # fmt: skip
    declared = signature({"word": ("string", ["batch"])}, ["id"])
    ran = run_check(saved(proto, tmp_path), tmp_path, declared, samples={"word": np.array(["ä", "a", "other"])})
    assert ran.arrays("baseline.npz")["id"].tolist() == [4, 3, -1]
    assert Signature.from_json(ran.json("imported.json")["signature"]).outputs[0].dtype == "int64"


def test_text_outputs_are_texts(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("StringConcat", ["word", "word"], ["twice"])],
        [value("word", TensorProto.STRING, ["N", 2])],
        [value("twice", TensorProto.STRING, ["N", 2])],
        opset=20,
    )
    declared = signature({"word": ("string", ["batch", 2])}, ["twice"])
    ran = run_check(saved(proto, tmp_path), tmp_path, declared)
    inputs, outputs = ran.arrays("samples.npz")["word"], ran.arrays("baseline.npz")["twice"]
    assert outputs.tolist() == np.strings.add(inputs, inputs).tolist()
    assert Signature.from_json(ran.json("imported.json")["signature"]).outputs[0].dtype == "string"


def test_a_lack_of_memory_is_not_an_error_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    given = read_onnx(saved(linear(), tmp_path / "model"))
    monkeypatch.setattr(onnx.checker, "check_model", full)
    with pytest.raises(MemoryError):
        checker_error(given)
