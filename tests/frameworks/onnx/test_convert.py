"""The variant made of an ONNX model as given: the spec's names, one file, the same answers, the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.graph import graphs
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature
from tests.frameworks.onnx.case import (
    WEIGHTS,
    Ran,
    floats,
    linear,
    model,
    outside,
    run_convert,
    saved,
    signature,
    stored,
    value,
    wide,
)

pytestmark = pytest.mark.frameworks

X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
IMAGE = signature({"image": ("float32", ["batch", 4])}, ["logits"])


def _answer(ran: Ran, declared: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    return open_onnx(ran.folder, Signature.from_json({**declared, "outputs": declared["outputs"]}), 1).run(inputs)


def _names(values: Any) -> list[tuple[str, list[Any]]]:
    return [(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]


def test_names_and_dimensions_are_those_of_the_spec(tmp_path: Path) -> None:
    names = {"inputs": {"image": "x:0"}, "outputs": {"logits": "y:0"}}
    ran = run_convert(saved(linear(inputs="x:0", outputs="y:0"), tmp_path), tmp_path, IMAGE, names, {"image": X})
    assert _names(ran.proto.graph.input) == [("image", ["batch", 4])]
    assert _names(ran.proto.graph.output) == [("logits", ["batch", 3])]
    np.testing.assert_allclose(_answer(ran, IMAGE, image=X)["logits"], X @ WEIGHTS, rtol=1e-5)
    assert (ran.facts["opset"], ran.facts["exporter"]) == (17, "given")
    assert "batch of 8" in ran.facts["checked"]


def test_the_order_is_that_of_the_spec_and_names_may_be_swapped(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Sub", ["a", "b"], ["d"]), helper.make_node("Neg", ["d"], ["e"])],
        [floats("a", ["N", 4]), floats("b", ["N", 4])],
        [floats("d", ["N", 4]), floats("e", ["N", 4])],
    )
    declared = signature({"a": ("float32", ["batch", 4]), "b": ("float32", ["batch", 4])}, ["d", "e"])
    names = {"inputs": {"a": "b", "b": "a"}, "outputs": {"d": "e", "e": "d"}}
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared, names)
    assert [v.name for v in ran.proto.graph.input] == ["a", "b"]
    assert [v.name for v in ran.proto.graph.output] == ["d", "e"]
    answer = _answer(ran, declared, a=X, b=2 * X)
    np.testing.assert_allclose(answer["d"], X - 2 * X)
    np.testing.assert_allclose(answer["e"], 2 * X - X)


def test_a_name_that_is_taken_inside_is_freed(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "image"], ["logits"]), helper.make_node("Neg", ["logits"], ["y"])]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 3])], [stored("image", WEIGHTS)])
    names = {"inputs": {"image": "x"}, "outputs": {"logits": "y"}}
    ran = run_convert(saved(proto, tmp_path), tmp_path, IMAGE, names, {"image": X})
    np.testing.assert_allclose(_answer(ran, IMAGE, image=X)["logits"], -(X @ WEIGHTS), rtol=1e-5)


def _branching() -> Any:
    """Branches that read the outer graph's input, weights and a tensor that is an output as well."""

    def branch(name: str, node: Any) -> Any:
        return helper.make_graph([node], name, [], [floats(f"{name}_out", ["N", "M"])])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["h"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If",
            ["positive"],
            ["y"],
            then_branch=branch("a", helper.make_node("Add", ["h", "h"], ["a_out"])),
            else_branch=branch("b", helper.make_node("MatMul", ["x", "w"], ["b_out"])),
        ),
    ]
    proto = model(
        nodes,
        [floats("x", ["N", 4])],
        [floats("y", ["N", 3]), floats("h", ["N", 3])],
        [stored("w", WEIGHTS), stored("zero", np.array(0, np.float32))],
    )
    proto.graph.value_info.append(floats("h", ["N", 3]))
    return proto


def test_graphs_inside_the_graph_see_the_new_names(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["n", 4])}, ["y", "w"], dims={"n": (3, 3)}, batch=None)
    names = {"outputs": {"w": "h"}}  # a name that the weights have, which the branch reads
    ran = run_convert(saved(_branching(), tmp_path), tmp_path, declared, names)
    for x in (X[2:], -X[2:]):
        answer = _answer(ran, declared, x=x)
        h = x @ WEIGHTS
        np.testing.assert_allclose(answer["w"], h, rtol=1e-5)
        np.testing.assert_allclose(answer["y"], h + h if h.sum() > 0 else h, rtol=1e-5)
    inner = [v for g in graphs(ran.proto.graph) for v in (*g.output, *g.value_info)]
    assert {d.dim_param for v in inner for d in v.type.tensor_type.shape.dim} == {""}


def test_an_input_that_is_an_output_too_keeps_both_names(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Neg", ["x"], ["y"])],
        [floats("x", ["N", 4])],
        [floats("y", ["N", 4]), floats("x", ["N", 4])],
    )
    declared = signature({"image": ("float32", ["batch", 4])}, ["y", "echo"])
    names = {"inputs": {"image": "x"}, "outputs": {"echo": "x"}}
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared, names)
    np.testing.assert_array_equal(_answer(ran, declared, image=X)["echo"], X)


def test_nodes_that_no_served_output_needs_are_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("MatMul", ["x", "unused"], ["z"]),
        helper.make_node("SequenceConstruct", ["z"], ["list"]),
    ]
    sequence = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)
    proto = model(
        nodes,
        [floats("x", ["N", 4])],
        [floats("y", ["N", 3]), sequence],
        [stored("w", WEIGHTS), stored("unused", wide())],
    )
    ran = run_convert(saved(proto, tmp_path), tmp_path)
    assert [node.op_type for node in ran.proto.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in ran.proto.graph.initializer] == ["w"]
    assert (ran.folder / "model.onnx").stat().st_size < 1000


def test_initializers_that_are_also_inputs_become_weights_only(tmp_path: Path) -> None:
    proto = linear(opset=8, ir=3)
    proto.graph.input.insert(0, floats("w", [4, 3]))
    ran = run_convert(saved(proto, tmp_path), tmp_path)
    assert [v.name for v in ran.proto.graph.input] == ["x"]
    assert ran.proto.ir_version == 4


def test_a_model_with_scikit_learns_operators_only_is_accepted(tmp_path: Path) -> None:
    scale = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    proto = model([scale], [floats("x", ["N", 4])], [floats("y", ["N", 4])], domains={"ai.onnx.ml": 1})
    del proto.opset_import[0]
    ran = run_convert(saved(proto, tmp_path), tmp_path, samples={"x": X})
    declared = signature({"x": ("float32", ["batch", 4])})
    np.testing.assert_allclose(_answer(ran, declared, x=X)["y"], (X - 1) * 2, rtol=1e-6)


def test_metadata_of_the_producer_is_dropped(tmp_path: Path) -> None:
    proto = _branching()
    proto.doc_string = "SECRET"
    proto.graph.doc_string = "SECRET"
    helper.set_model_props(proto, {"author": "SECRET"})
    for graph in graphs(proto.graph):
        for node in graph.node:
            node.doc_string = "SECRET"
            node.metadata_props.add(key="stack", value="SECRET")
            for attribute in node.attribute:
                attribute.doc_string = "SECRET"
    proto.training_info.add().algorithm.doc_string = "SECRET"
    declared = signature({"x": ("float32", ["n", 4])}, ["y", "h"], dims={"n": (3, 3)}, batch=None)
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared)
    assert b"SECRET" not in (ran.folder / "model.onnx").read_bytes()


def _outside_model(tmp_path: Path, weights: Any) -> Path:
    proto = linear(outside("w", weights, "parts/weights.bin", offset=64))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = weights.shape[1]
    path = saved(proto, tmp_path / "model")
    (path.parent / "parts").mkdir()
    (path.parent / "parts" / "weights.bin").write_bytes(bytes(64) + weights.tobytes())
    return path


def test_weights_beside_the_model_go_into_it(tmp_path: Path) -> None:
    ran = run_convert(_outside_model(tmp_path, wide()), tmp_path, samples={"x": X})
    assert sorted(file.name for file in ran.folder.iterdir()) == ["facts.json", "model.onnx"]
    declared = signature({"x": ("float32", ["batch", 4])})
    np.testing.assert_allclose(_answer(ran, declared, x=X)["y"], X @ wide(), rtol=1e-4, atol=1e-5)


def test_weights_too_large_for_one_file_go_into_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 1000)
    ran = run_convert(_outside_model(tmp_path, wide()), tmp_path, samples={"x": X})
    assert sorted(file.name for file in ran.folder.iterdir()) == ["facts.json", "model.onnx", "model.onnx.data"]
    assert (ran.folder / "model.onnx").stat().st_size < 1000
    declared = signature({"x": ("float32", ["batch", 4])})
    np.testing.assert_allclose(_answer(ran, declared, x=X)["y"], X @ wide(), rtol=1e-4, atol=1e-5)


def test_weights_in_a_field_of_numbers_go_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 1000)
    numbers = helper.make_tensor("w", TensorProto.FLOAT, [4, 2000], wide().ravel().tolist())
    proto = linear(numbers)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2000
    ran = run_convert(saved(proto, tmp_path), tmp_path, samples={"x": X})
    assert (ran.folder / "model.onnx.data").stat().st_size == wide().nbytes
    declared = signature({"x": ("float32", ["batch", 4])})
    np.testing.assert_allclose(_answer(ran, declared, x=X)["y"], X @ wide(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("largest", [1000, 10**9])
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", largest)
    path = _outside_model(tmp_path, wide())
    first, second = (run_convert(path, tmp_path / name, samples={"x": X}) for name in ("a", "b"))
    for file in first.folder.iterdir():
        assert file.read_bytes() == (second.folder / file.name).read_bytes()


def test_a_model_that_only_the_checker_refuses_is_converted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["z"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]  # in no order to run them in
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 4])])
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(proto)
    ran = run_convert(saved(proto, tmp_path), tmp_path)
    assert ran.facts["nodes"] == 2


def test_half_precision_stays_what_it_is(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", TensorProto.FLOAT16, ["N", 4])],
        [value("y", TensorProto.FLOAT16, ["N", 3])],
        [stored("w", WEIGHTS.astype(np.float16))],
    )
    declared = signature({"x": ("float16", ["batch", 4])})
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared)
    assert _answer(ran, declared, x=X.astype(np.float16))["y"].dtype == np.float16


def test_a_step_with_a_state_goes_in_and_out(tmp_path: Path) -> None:
    """One step of a recurrent network: the state has the batch as its second dimension, so rows cannot be separated."""
    random = np.random.default_rng(0)
    weights = {"w": (1, 5, 3), "r": (1, 5, 5), "b": (1, 10)}
    tensors = [stored(name, random.normal(size=shape).astype(np.float32)) for name, shape in weights.items()]
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["steps"]),
        helper.make_node("RNN", ["steps", "w", "r", "b", "", "h"], ["", "h1"], hidden_size=5),
        helper.make_node("Squeeze", ["h1", "axis"], ["y"]),
    ]
    proto = model(
        nodes,
        [floats("x", ["B", 3]), floats("h", [1, "B", 5])],
        [floats("y", ["B", 5]), floats("h1", [1, "B", 5])],
        [*tensors, stored("axis", np.array([0]))],
    )
    declared = signature(
        {"x": ("float32", ["rows", 3]), "h": ("float32", [1, "rows", 5])},
        ["y", "next"],
        dims={"rows": (1, 4)},
        batch=None,
    )
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared, {"outputs": {"next": "h1"}})
    runtime = open_onnx(ran.folder, Signature.from_json(declared), 1)
    x, h = random.normal(size=(2, 3)).astype(np.float32), np.zeros((1, 2, 5), np.float32)
    first = runtime.run({"x": x, "h": h})
    second = runtime.run({"x": x, "h": first["next"]})
    w, r, b = (np.asarray(onnx.numpy_helper.to_array(t))[0] for t in tensors)
    expected = np.tanh(x @ w.T + b[:5] + b[5:])
    np.testing.assert_allclose(first["next"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(second["y"], np.tanh(x @ w.T + b[:5] + expected @ r.T + b[5:]), rtol=1e-4)
    assert _names(ran.proto.graph.input) == [("x", ["rows", 3]), ("h", [1, "rows", 5])]


def test_texts_go_in_and_come_out(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("StringConcat", ["word", "end"], ["y"])],
        [value("word", TensorProto.STRING, ["N"])],
        [value("y", TensorProto.STRING, ["N"])],
        [helper.make_tensor("end", TensorProto.STRING, [1], [b"!"])],
        opset=20,
    )
    declared = signature({"text": ("string", ["batch"])})
    ran = run_convert(saved(proto, tmp_path), tmp_path, declared, {"inputs": {"text": "word"}})
    assert _answer(ran, declared, text=np.array(["ä", ""]))["y"].tolist() == ["ä!", "!"]
