"""Renaming the inputs and outputs of an ONNX model, and ordering its nodes canonically."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.parser import parse_model

from orchestrator.frameworks.onnx.finish import canonical
from orchestrator.frameworks.onnx.graph import rename

pytestmark = pytest.mark.frameworks

BRANCHES = """<ir_version: 9, opset_import: ["":17]>
g (float[n,2] x, float[n,2] y, bool c) => (float[n,2] o, float[n,2] p, float[n,2] x) <float[2] k = {1,2}> {
    h = Add(x, k)
    o = Mul(h, y)
    p = If(c) <
        then_branch = t () => (float[n,2] tt) { tt = Add(h, x) },
        else_branch = e () => (float[n,2] ee) { ee = Identity(y) }
    >
}"""
HEAD = '<ir_version: 9, opset_import: ["":17]> g (float[n,2] x) => (float[n,2] first, float[n,2] second) '


def answers(model: Any, **inputs: Any) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.mark.parametrize("chosen", [True, False])
def test_tensors_get_other_names_and_another_order(chosen: bool) -> None:
    x, y, c = np.full((1, 2), 1, np.float32), np.full((1, 2), 3, np.float32), np.array(chosen)
    o, p, _ = answers(parse_model(BRANCHES), x=x, y=y, c=c)
    model = parse_model(BRANCHES)
    # Names that others have, inside and outside; one tensor with two names; an input that is an output.
    rename(model, {"y": "x", "h": "y", "cond": "c"}, {"first": "p", "k": "o", "second": "p", "in": "x"})
    assert [value.name for value in model.graph.input] == ["y", "h", "cond"]
    assert [value.name for value in model.graph.output] == ["first", "k", "second", "in"]
    for answer, expected in zip(answers(model, y=x, h=y, cond=c), (p, o, p, x), strict=True):
        np.testing.assert_array_equal(answer, expected)


def test_a_tensor_that_is_not_there_is_reported() -> None:
    with pytest.raises(KeyError, match="z"):
        rename(parse_model(BRANCHES), {"a": "x", "b": "y", "c": "c"}, {"first": "z"})


@pytest.mark.parametrize(
    "bodies",
    [
        (
            "<float[2] k = {1,2}, float[2] m = {3,4}> { a = Add(x,k) b = Mul(x,m) first = Sub(a,b) second = Identity(first) }",
            "<float[2] q = {3,4}, float[2] r = {1,2}> { u = Mul(x,q) v = Add(x,r) second = Sub(v,u) first = Identity(second) }",
        ),
        (
            "{ a = Relu(x) b = Identity(a) c = Identity(b) first = Neg(c) second = Identity(a) unused = Abs(x) }",
            "{ second = Relu(x) d = Identity(second) first = Neg(d) }",
        ),
    ],
)
def test_the_same_graph_written_in_two_ways_becomes_the_same(bodies: tuple[str, str]) -> None:
    one, other = (parse_model(HEAD + body) for body in bodies)
    x = np.array([[1, -2]], np.float32)
    expected = answers(one, x=x)
    canonical(one)
    canonical(other)
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)
    for answer, wanted in zip(answers(one, x=x), expected, strict=True):
        np.testing.assert_array_equal(answer, wanted)


def test_branches_see_the_new_names_around_them() -> None:
    model = parse_model(BRANCHES)
    x, y = np.full((1, 2), 1, np.float32), np.full((1, 2), 3, np.float32)
    expected = [answers(model, x=x, y=y, c=np.array(chosen)) for chosen in (True, False)]
    canonical(model)
    assert {node.name for node in model.graph.node} >= {"Add/1", "If/1"}
    for chosen, wanted in zip((True, False), expected, strict=True):
        np.testing.assert_equal(answers(model, x=x, y=y, c=np.array(chosen)), wanted)
