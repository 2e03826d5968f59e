"""ONNX files that are not models, or that ONNX Runtime cannot run: each is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.frameworks.onnx.case import (
    WEIGHTS,
    WEIGHTS_PLACE,
    X,
    floats,
    linear,
    model,
    refused,
    run_check,
    run_inspect,
    saved,
    stored,
)

pytestmark = pytest.mark.frameworks


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
def test_a_file_that_is_not_a_model_is_refused_with_its_kind(
    tmp_path: Path, change: str, code: str, words: str
) -> None:
    error = refused(code, run_inspect, saved(_bytes(change), tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert words in f"{error.message}: {error.cause}"


@pytest.mark.parametrize("name", [b"x", b"y", b"MatMul", b"w"])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path, name: bytes) -> None:
    content = linear().SerializeToString().replace(bytes([len(name)]) + name, bytes([len(name)]) + b"\xff" * len(name))
    error = refused("E302", run_inspect, saved(content, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert error.cause == "a name in it is not UTF-8"


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    assert "there is no `model.onnx`" in refused("E301", run_inspect, tmp_path / "model.onnx", tmp_path).cause


def test_a_disconnected_graph_is_refused_with_the_checkers_message(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.node[0].input[1] = "nowhere"
    error = refused("E302", run_check, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "'nowhere'" in error.cause
    assert error.notes[0].startswith("ONNX's checker says: ")


def test_an_opset_that_is_too_new_is_reported(tmp_path: Path) -> None:
    error = refused("E302", run_check, saved(linear(opset=99), tmp_path), tmp_path)
    assert error.message == "the model was written for a newer ONNX than this ONNX Runtime reads"
    assert "Opset 99 is under development" in error.cause
    assert error.remedy.startswith("export it for an older opset")


def test_an_ir_version_that_cannot_be_lowered_is_refused_with_how_to_write_an_older_one(tmp_path: Path) -> None:
    content = linear(ir=99).SerializeToString() + bytes([0xF2, 0x3F, 1, 0])  # field 1022, one byte
    error = refused("E302", run_check, saved(content, tmp_path), tmp_path)
    assert "IR version 99" in error.message
    assert "which onnx" in error.cause
    assert "export it with an older onnx, or set `model.ir_version = " in error.remedy


def test_a_lowered_model_that_onnxs_checker_does_not_accept_is_refused(tmp_path: Path) -> None:
    proto = linear(ir=99)
    proto.graph.node[0].attribute.append(helper.make_attribute("unknown", 1))
    error = refused("E302", run_check, saved(proto, tmp_path), tmp_path)
    assert "ONNX's checker does not accept it" in error.cause


def test_operators_of_a_custom_domain_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gadget", ["x"], ["z"], domain="com.acme"),
        helper.make_node("Widget", ["z"], ["y"], domain="com.acme"),
    ]
    proto = model(nodes, [floats("x", ["N", 4])], [floats("y", None)], domains={"com.acme": 1})
    error = refused("E364", run_inspect, saved(proto, tmp_path), tmp_path, at=WEIGHTS_PLACE)
    assert "com.acme:Gadget, com.acme:Widget" in error.message


def test_functions_of_the_model_are_accepted_as_operators(tmp_path: Path) -> None:
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
