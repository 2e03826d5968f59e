"""ONNX models as given: what is read from the file, what is refused, and how the model is proven and run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx_source import open_baseline
from orchestrator.frameworks.onnx_walk import tensors
from orchestrator.spec.signature import Signature
from tests.frameworks.onnx_case import (
    WEIGHTS,
    WEIGHTS_PLACE,
    floats,
    linear,
    model,
    outside,
    refused,
    run_check,
    run_inspect,
    saved,
    signature,
    stored,
    value,
    wide,
)

pytestmark = pytest.mark.frameworks

X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)


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
    found = run_inspect(saved(proto, tmp_path), tmp_path).json("found.json")
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


def test_weights_that_are_inputs_too_are_none(tmp_path: Path) -> None:
    proto = linear(opset=8, ir=3)
    proto.graph.input.append(floats("w", [4, 3]))
    ran = run_inspect(saved(proto, tmp_path), tmp_path)
    assert [tensor["tensor"] for tensor in ran.json("found.json")["inputs"]] == ["x"]
    assert ran.facts == {"inputs": 1, "outputs": 1, "opset": 8, "files": 0}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 22])
def test_a_model_of_any_opset_answers_as_it_should(tmp_path: Path, opset: int) -> None:
    ran = run_check(saved(linear(opset=opset), tmp_path), tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS, rtol=1e-5)
    resolved = Signature.from_json(ran.json("signature.json"))
    assert (resolved.outputs[0].dtype, resolved.outputs[0].shape) == ("float32", ("batch", 3))
    assert ran.facts["parameters"] == 12


def test_the_baseline_is_the_model_called_by_the_specs_names(tmp_path: Path) -> None:
    names = {"inputs": {"image": "x:0"}, "outputs": {"logits": "y:0"}}
    declared = signature({"image": ("float32", ["batch", 4])}, ["logits"])
    path = saved(linear(inputs="x:0", outputs="y:0"), tmp_path)
    ran = run_check(path, tmp_path, declared, names, {"image": X})
    runtime = open_baseline(
        {"source": {"kind": "onnx", "names": names}},
        {"weights": path},
        tmp_path,
        Signature.from_json(ran.json("signature.json")),
        2,
    )
    np.testing.assert_allclose(runtime.run({"image": X})["logits"], X @ WEIGHTS, rtol=1e-5)
    assert runtime.facts()["threads"] == 2


# --- What is no model that can be run.


def _bytes(change: str) -> bytes:
    whole: bytes = linear().SerializeToString()
    empty = onnx.ModelProto()
    empty.CopyFrom(linear())
    match change:
        case "cut":
            return whole[: len(whole) * 2 // 3]
        case "a text":
            return b"not a model\n"
        case "nothing":
            return b""
        case "a tensor alone":
            return bytes(stored("w", WEIGHTS).SerializeToString())
        case "no nodes":
            del empty.graph.node[:]
        case "no outputs":
            del empty.graph.output[:]
        case "no inputs":
            empty.graph.node[0].input[0] = "w"
            del empty.graph.input[:]
        case "no graph":
            empty.ClearField("graph")
    return bytes(empty.SerializeToString())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("cut", "E302", "cut off or damaged"),
        ("a text", "E301", "a text file"),
        ("nothing", "E301", "an empty file"),
        ("a tensor alone", "E301", "unknown kind"),
        ("no nodes", "E365", "the model's graph has no nodes"),
        ("no outputs", "E365", "the model's graph has no outputs"),
        ("no inputs", "E365", "the model's graph has no inputs"),
        ("no graph", "E365", "the model's graph has no nodes"),
    ],
)
def test_a_file_that_is_no_model_is_told_for_what_it_is(tmp_path: Path, change: str, code: str, words: str) -> None:
    error = refused(code, run_inspect, saved(_bytes(change), tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert words in f"{error.message}: {error.cause}"


@pytest.mark.parametrize("name", [b"x", b"y", b"MatMul", b"w"])
def test_a_name_that_is_no_utf_8_is_told(tmp_path: Path, name: bytes) -> None:
    content = linear().SerializeToString().replace(bytes([len(name)]) + name, bytes([len(name)]) + b"\xff" * len(name))
    error = refused("E302", run_inspect, saved(content, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.cause == "a name in it is not UTF-8"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "no file model.onnx" in refused("E301", run_inspect, tmp_path / "model.onnx", tmp_path).cause


def test_a_graph_that_is_not_connected_is_told_with_the_checkers_words(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.node[0].input[1] = "nowhere"
    error = refused("E302", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "'nowhere'" in error.cause
    assert error.notes[0].startswith("the checker of ONNX says: ")


def test_a_model_that_is_too_new_is_told(tmp_path: Path) -> None:
    error = refused("E302", run_check, saved(linear(ir=99), tmp_path), tmp_path)
    assert error.message == "the model was written for a newer ONNX than this ONNX Runtime reads"
    assert "max supported IR version" in error.cause


def test_operators_of_a_custom_domain_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gadget", ["x"], ["z"], domain="com.acme"),
        helper.make_node("Widget", ["z"], ["y"], domain="com.acme"),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", None)], domains={"com.acme": 1})
    error = refused("E364", run_inspect, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "com.acme:Gadget, com.acme:Widget" in error.message


def test_operators_that_the_model_defines_itself_are_its_own(tmp_path: Path) -> None:
    twice = helper.make_function(
        "com.acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = model(
        [helper.make_node("Twice", ["x"], ["y"], domain="com.acme")],
        [floats("x", ["N", 4])],
        [floats("y", ["N", 4])],
        domains={"com.acme": 1},
        functions=[twice],
    )
    ran = run_check(saved(proto, tmp_path), tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], 2 * X)


@pytest.mark.parametrize(
    ("node", "opset", "name"),
    [
        (helper.make_node("Gadget", ["x"], ["y"], domain="com.microsoft"), 17, "com.microsoft:Gadget"),
        (helper.make_node("Gadget", ["x"], ["y"]), 17, "Gadget"),
        (helper.make_node("Relu", ["x"], ["y"]), 1, "Relu of version 1"),
    ],
)
def test_an_operator_that_the_runtime_lacks_is_named(tmp_path: Path, node: Any, opset: int, name: str) -> None:
    domains = {"com.microsoft": 1} if node.domain else {}
    proto = model([node], [floats("x", ["N", 4])], [floats("y", None)], opset=opset, domains=domains)
    error = refused("E364", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.message == f"the model uses an operator that ONNX Runtime does not have: {name}"


# --- Inputs and outputs.


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, ["N", 4]), "bfloat16"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, ["N", 4]), "float8e4m3fn"),
        (helper.make_tensor_type_proto(TensorProto.COMPLEX64, ["N", 4]), "complex64"),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, ["N", 4]), "sparse_tensor(float32)"),
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)), "seq(float32)"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(7, None)), "optional(int64)"),
    ],
)
def test_an_input_that_no_request_carries_is_told(tmp_path: Path, kind: Any, said: str) -> None:
    proto = linear()
    proto.graph.input[0].type.CopyFrom(kind)
    error = refused("E362", run_inspect, saved(proto, tmp_path), tmp_path)
    assert error.message == f"the model's input `x` is {said}, which no request can carry"
    assert "float32" in error.remedy


def _classifier() -> Any:
    """A classifier as skl2onnx makes it by default: labels, and probabilities as a list of dictionaries."""
    classify = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=WEIGHTS.T.ravel().tolist(),
        intercepts=[0.0, 0.1, 0.2],
        classlabels_ints=[0, 1, 2],
        multi_class=1,
        post_transform="SOFTMAX",
    )
    zip_map = helper.make_node(
        "ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
    )
    probabilities = helper.make_value_info(
        "probabilities",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        ),
    )
    return model(
        [classify, zip_map],
        [floats("x", ["N", 4])],
        [value("label", TensorProto.INT64, ["N"]), probabilities],
        domains={"ai.onnx.ml": 3},
    )


def test_a_list_of_dictionaries_is_found_with_the_way_to_an_array(tmp_path: Path) -> None:
    found = run_inspect(saved(_classifier(), tmp_path), tmp_path).json("found.json")
    assert [(t["tensor"], t["dtype"], t["shape"]) for t in found["outputs"]] == [
        ("label", "int64", ["N"]),
        ("probabilities", "seq(map(int64, float32))", None),
    ]
    assert "options={'zipmap': False}" in found["notes"][0]


def test_a_list_of_dictionaries_cannot_be_served(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["label", "probabilities"])
    path = saved(_classifier(), tmp_path)
    error = refused("E362", run_check, path, tmp_path, declared, at=("model", "outputs", 1))
    assert "options={'zipmap': False}" in error.cause


def test_what_is_not_declared_is_left_out_and_noted(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["label"])
    ran = run_check(saved(_classifier(), tmp_path), tmp_path, declared, samples={"x": X})
    assert ran.arrays("baseline.npz")["label"].tolist() == (X @ WEIGHTS + [0.0, 0.1, 0.2]).argmax(axis=1).tolist()
    assert "source: the model's output `probabilities` (seq(map(int64, float32))) is not served" in ran.facts["notes"]


@pytest.mark.parametrize(
    ("declared", "names", "message", "at"),
    [
        (
            signature({"image": ("float32", ["batch", 4])}),
            None,
            "the model has no input `image`",
            ("model", "inputs", 0, "name"),
        ),
        (
            signature({"x": ("float32", ["batch", 4])}, ["logits"]),
            {"outputs": {"logits": "z"}},
            "the model has no output `z`",
            ("model", "outputs", 0, "name"),
        ),
        (
            signature({"x": ("float64", ["batch", 4])}),
            None,
            "`x` is float32 in the model, and float64 is declared",
            ("model", "inputs", 0, "dtype"),
        ),
        (
            signature({"x": ("float32", ["batch", 2, 2])}),
            None,
            "`x` has 2 dimensions in the model, and 3 are declared",
            ("model", "inputs", 0, "shape"),
        ),
        (
            signature({"x": ("float32", ["batch", 5])}),
            None,
            "dimension 1 of `x` is 4 in the model, and 5 is declared",
            ("model", "inputs", 0, "shape", 1),
        ),
        (
            signature({"x": ("float32", ["batch", "width"])}, dims={"batch": (1, 8), "width": (1, 9)}),
            None,
            "dimension 1 of `x` is 4 in the model, and `width` from 1 to 9 is declared",
            ("model", "inputs", 0, "shape", 1),
        ),
        (
            signature({"x": ("float32", ["batch", 4])}, ["a", "b"]),
            {"outputs": {"a": "y", "b": "y"}},
            "`a` and `b` are the same tensor `y`",
            ("model", "outputs", 1),
        ),
    ],
)
def test_what_is_declared_otherwise_is_told(
    tmp_path: Path, declared: Any, names: Any, message: str, at: tuple[str | int, ...]
) -> None:
    error = refused("E363", run_check, saved(linear(), tmp_path), tmp_path, declared, names, at=at)
    assert error.message == message


def test_one_name_for_an_input_and_an_output_is_told(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, ["x"])
    path = saved(linear(), tmp_path)
    error = refused("E363", run_check, path, tmp_path, declared, {"outputs": {"x": "y"}}, at=("model", "outputs", 0))
    assert "outputs: [{name: x_out, tensor: 'y'}, ...]" in error.remedy


def test_an_input_that_is_not_declared_is_told(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [floats("x", ["N", 4]), floats("offset", ["N", 4])],
        [floats("y", ["N", 4])],
    )
    error = refused("E363", run_check, saved(proto, tmp_path), tmp_path)
    assert error.message == "the model takes `offset` too, and nothing is declared for it"


def test_a_size_that_the_model_does_not_take_is_told_with_its_dimension(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [floats("x", ["N", "M"])],
        [floats("y", None)],
        [stored("shape", np.array([-1, 2, 3]))],
    )
    declared = signature({"x": ("float32", ["batch", "m"])}, dims={"batch": (1, 4), "m": (6, 8)})
    samples = {"x": np.ones((3, 6), np.float32)}
    path = saved(proto, tmp_path)
    error = refused("E322", run_check, path, tmp_path, declared, samples=samples, at=("model", "dims", "m"))
    assert "reshaped" in error.cause
    assert "/onnxruntime" not in error.cause


# --- Whether it answers the same again.


def test_a_model_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 4])])
    error = refused("E330", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.cause == "`RandomNormalLike` draws random numbers"


def test_a_model_that_normalizes_by_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 4])])
    error = refused("E331", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "depends on what else is in its batch" in error.message


def _quantized_while_running() -> Any:
    """As `quantize_dynamic` makes it: one scale for the whole batch."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    return model(nodes, [floats("x", ["N", 4])], [floats("y", ["N", 3])], [stored("w", WEIGHTS)])


def test_a_model_that_quantizes_a_batch_by_one_range_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    error = refused("E331", run_check, saved(_quantized_while_running(), tmp_path), tmp_path, samples={"x": X * 3})
    assert "`DynamicQuantizeLinear` quantizes all rows of a batch by their common range" in error.cause
    assert "dims: {batch: {min: 1, max: 1}}" in error.remedy


def test_the_same_model_is_taken_row_by_row(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 4])}, dims={"batch": (1, 1)})
    ran = run_check(saved(_quantized_while_running(), tmp_path), tmp_path, declared, samples={"x": X * 3})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X * 3 @ WEIGHTS, atol=0.05)


def test_what_only_the_checker_refuses_is_noted(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7  # a wrong shape: ONNX Runtime only warns
    ran = run_check(saved(proto, tmp_path), tmp_path, samples={"x": X})
    assert any(note.startswith("source: the checker of ONNX objects") for note in ran.facts["notes"])


# --- Files beside the model.


def _outside(tmp_path: Path, location: str = "weights.bin", **more: Any) -> Path:
    return saved(linear(outside("w", WEIGHTS, location, **more)), tmp_path / "model")


def test_weights_in_another_file_are_found_and_used(tmp_path: Path) -> None:
    path = _outside(tmp_path, "data/weights.bin", offset=8)
    (path.parent / "data").mkdir()
    (path.parent / "data" / "weights.bin").write_bytes(b"12345678" + WEIGHTS.tobytes() + b"more")
    assert run_inspect(path, tmp_path).json("found.json")["files"] == ["data/weights.bin"]
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("more", [{}, {"length": None}, {"offset": None}, {"offset": 4096}, {"offset": 1}])
def test_large_weights_are_used_where_they_lie(tmp_path: Path, more: dict[str, Any]) -> None:
    weights = wide()
    proto = linear(outside("w", weights, **more))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = weights.shape[1]
    path = saved(proto, tmp_path / "model")
    (path.parent / "weights.bin").write_bytes(bytes(more.get("offset") or 0) + weights.tobytes())
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ weights, rtol=1e-4, atol=1e-5)


def _everywhere(location: str) -> Any:
    """Tensors in another file at every place of a model that can hold one."""
    one = np.full(3, 1, np.float32)

    def branch(name: str, tensor: Any) -> Any:
        add = helper.make_node("Add", ["flat", f"{name}_w"], [f"{name}_y"])
        tensor.name = f"{name}_w"
        return helper.make_graph([add], name, [], [floats(f"{name}_y", None)], [tensor])

    constant = helper.make_node("Constant", [], ["c"], value=outside("c", one, location))
    sparse = onnx.SparseTensorProto(
        values=outside("s", one, location), indices=outside("i", np.arange(3), location, offset=12), dims=[3]
    )
    function = helper.make_function(
        "mine",
        "AddOne",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["one"], value=outside("one", one, location)),
            helper.make_node("Add", ["a", "one"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node(
            "If",
            ["yes"],
            ["z"],
            then_branch=branch("then", outside("t", one, location)),
            else_branch=branch("else", outside("e", one, location)),
        ),
        constant,
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
        helper.make_node("Add", ["z", "c"], ["z2"]),
        helper.make_node("Add", ["z2", "s"], ["z3"]),
        helper.make_node("AddOne", ["z3"], ["y"], domain="mine"),
    ]
    return model(
        nodes,
        [floats("x", ["N", 4])],
        [floats("y", ["N", 3])],
        [stored("w", WEIGHTS), stored("yes", np.array(True))],
        domains={"mine": 1},
        functions=[function],
    )


def test_tensors_in_another_file_are_found_at_every_place(tmp_path: Path) -> None:
    path = saved(_everywhere("more/bits.bin"), tmp_path / "model")
    (path.parent / "more").mkdir()
    (path.parent / "more" / "bits.bin").write_bytes(np.ones(3, np.float32).tobytes() + np.arange(3).tobytes())
    assert run_inspect(path, tmp_path).json("found.json")["files"] == ["more/bits.bin"]
    ran = run_check(path, tmp_path, samples={"x": X})
    np.testing.assert_allclose(ran.arrays("baseline.npz")["y"], X @ WEIGHTS + 4, rtol=1e-5)


@pytest.mark.parametrize("place", range(6))
def test_each_of_these_places_is_checked(tmp_path: Path, place: int) -> None:
    proto = _everywhere("bits.bin")
    (tmp_path / "bits.bin").write_bytes(np.ones(3, np.float32).tobytes() + np.arange(3).tobytes())
    out = [tensor for tensor in tensors(proto) if tensor.data_location == TensorProto.EXTERNAL]
    assert len(out) == 6
    next(entry for entry in out[place].external_data if entry.key == "location").value = "../secret"
    refused("E360", run_inspect, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "/etc/passwd", ".."])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    error = refused("E360", run_inspect, _outside(tmp_path, location), tmp_path, at=WEIGHTS_PLACE)
    assert repr(location) in error.cause


def test_links_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHTS.tobytes())
    path = _outside(tmp_path)
    here = path.parent / "weights.bin"
    here.symlink_to(secret)
    error = refused("E360", run_inspect, path, tmp_path / "1", at=WEIGHTS_PLACE)
    assert "`weights.bin` is a symbolic link" in error.cause
    here.unlink()
    here.hardlink_to(secret)
    error = refused("E360", run_inspect, path, tmp_path / "2", at=WEIGHTS_PLACE)
    assert "`weights.bin` has 2 hard links" in error.cause
    assert "cp -rL" in error.remedy


def test_a_folder_on_the_way_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(WEIGHTS.tobytes())
    path = _outside(tmp_path, "data/weights.bin")
    (path.parent / "data").symlink_to(tmp_path / "elsewhere")
    error = refused("E360", run_inspect, path, tmp_path)
    assert "`data`, which leads to `data/weights.bin`, is a symbolic link" in error.cause


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused("E361", run_inspect, _outside(tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.message == "`weights.bin`, which the model takes tensors from, cannot be read"
    assert error.cause == "no such file or directory"


def test_a_folder_or_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    path = _outside(tmp_path)
    (path.parent / "weights.bin").mkdir()
    refused("E361", run_inspect, path, tmp_path / "1")
    (path.parent / "weights.bin").rmdir()
    os.mkfifo(path.parent / "weights.bin")
    assert "a folder or a device" in refused("E361", run_inspect, path, tmp_path / "2").cause


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"offset": 8}, "the tensor is 48 bytes from byte 8 on, and the file has 48"),
        ({"offset": 2**62}, "and the file has 48"),
        ({"length": 47}, "47 bytes of its file, and 48 by its type and shape [4, 3]"),
        ({"length": 2**60}, "48 by its type and shape"),
        ({"offset": "-8"}, "it says '-8'"),
        ({"offset": "8 "}, "it says '8 '"),
        ({"location": ""}, "it says ''"),
        ({"location": "a\0b"}, "it says 'a\\x00b'"),
    ],
)
def test_places_that_are_not_in_the_file_are_told(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    location = str(more.pop("location", "weights.bin"))
    path = _outside(tmp_path, location, **more)
    (path.parent / "weights.bin").write_bytes(WEIGHTS.tobytes())
    error = refused("E361", run_inspect, path, tmp_path, at=WEIGHTS_PLACE)
    assert words in error.cause


def test_texts_cannot_lie_in_another_file(tmp_path: Path) -> None:
    tensor = outside("w", WEIGHTS)
    tensor.data_type = TensorProto.STRING
    refused("E361", run_inspect, saved(linear(tensor), tmp_path), tmp_path)


def test_files_of_a_training_graph_are_not_read(tmp_path: Path) -> None:
    proto = linear()
    training = proto.training_info.add()
    training.initialization.initializer.append(outside("secret", WEIGHTS, "/etc/passwd"))
    assert run_inspect(saved(proto, tmp_path), tmp_path).json("found.json")["files"] == []


def test_given_texts_are_answered(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("LabelEncoder", ["word"], ["id"], domain="ai.onnx.ml", keys_strings=["a", "ä"], values_int64s=[3, 4], default_int64=-1)],
        [value("word", TensorProto.STRING, ["N"])],
        [value("id", TensorProto.INT64, ["N"])],
        domains={"ai.onnx.ml": 2},
    )  # fmt: skip
    declared = signature({"word": ("string", ["batch"])}, ["id"])
    ran = run_check(saved(proto, tmp_path), tmp_path, declared, samples={"word": np.array(["ä", "a", "other"])})
    assert ran.arrays("baseline.npz")["id"].tolist() == [4, 3, -1]
    assert Signature.from_json(ran.json("signature.json")).outputs[0].dtype == "int64"


def test_answered_texts_are_texts(tmp_path: Path) -> None:
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
    assert Signature.from_json(ran.json("signature.json")).outputs[0].dtype == "string"
