"""Attentions become single operators with the same answers, in graphs as exporters write them; anything else stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.onnx.rewrite import to_fused
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from orchestrator.steps.pass_options import OnnxInt8Options
from tests.frameworks.onnx.case import OPSET, Ran, floats, model, refused, run_convert, saved, signature, stored

pytestmark = pytest.mark.frameworks

HEADS, SIZE = 4, 8
WIDTH = HEADS * SIZE
GIVEN = {
    "x": np.random.default_rng(0).normal(size=(12, 6, WIDTH)).astype(np.float32),
    "seen": np.where(np.random.default_rng(1).random((12, 6)) < 0.7, 0.0, -1e4).astype(np.float32),
}
DECLARED = signature(
    {"x": ("float32", ["batch", "tokens", WIDTH]), "seen": ("float32", ["batch", "tokens"])},
    dims={"batch": (1, 16), "tokens": (1, 12)},
)


def _node(operator: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def _layer(
    before: str,
    at: str,
    *,
    asks: str = "",
    biased: bool = True,
    fused: bool = False,
    joined: Sequence[int] = (0, 2, 1, 3),
) -> tuple[list[Any], list[Any]]:
    """The nodes and the weights of an attention of `asks`, else of `before` itself, to `before`; its output is `{at}_out`."""
    random = np.random.default_rng(len(at))
    nodes, weights = [], []
    for part in "qkv":
        weights.append(stored(f"{at}_{part}_w", random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 6))
        weights.append(stored(f"{at}_{part}_b", random.normal(size=WIDTH).astype(np.float32)))
        given = asks if asks and part == "q" else before
        nodes.append(_node("MatMul", f"{given} {at}_{part}_w", f"{at}_{part}_product"))
        nodes.append(_node("Add", f"{at}_{part}_b {at}_{part}_product", f"{at}_{part}_sum"))
        nodes.append(_node("Reshape", f"{at}_{part}_{'sum' if biased else 'product'} to_heads", f"{at}_{part}_split"))
    nodes.append(_node("Transpose", f"{at}_q_split", f"{at}_q", perm=[0, 2, 1, 3]))
    nodes.append(_node("Transpose", f"{at}_v_split", f"{at}_v", perm=[0, 2, 1, 3]))
    if fused:  # as PyTorch's exporter writes `scaled_dot_product_attention`
        nodes += [
            _node("Transpose", f"{at}_k_split", f"{at}_k_first", perm=[0, 2, 1, 3]),
            _node("Shape", f"{at}_k_first", f"{at}_shape"),
            _node("Slice", f"{at}_shape two four", f"{at}_rows"),
            _node("Concat", f"minus {at}_rows", f"{at}_flat_shape", axis=0),
            _node("Reshape", f"{at}_k_first {at}_flat_shape", f"{at}_flat"),
            _node("Transpose", f"{at}_flat", f"{at}_swapped", perm=[0, 2, 1]),
            _node("Slice", f"{at}_shape two three", f"{at}_tokens"),
            _node("Concat", f"from_flat {at}_tokens", f"{at}_shape_again", axis=0),
            _node("Reshape", f"{at}_swapped {at}_shape_again", f"{at}_k"),
            _node("Mul", f"{at}_q root", f"{at}_q_less"),
            _node("Mul", f"{at}_k root", f"{at}_k_less"),
            _node("MatMul", f"{at}_q_less {at}_k_less", f"{at}_scaled"),
        ]
    else:
        nodes += [
            _node("Transpose", f"{at}_k_split", f"{at}_k", perm=[0, 2, 3, 1]),
            _node("MatMul", f"{at}_q {at}_k", f"{at}_products"),
            _node("Div", f"{at}_products divisor", f"{at}_scaled"),
        ]
    nodes += [
        _node("Add", f"{at}_scaled mask", f"{at}_scores"),
        _node("Softmax", f"{at}_scores", f"{at}_shares", axis=-1),
        _node("MatMul", f"{at}_shares {at}_v", f"{at}_mixed"),
        _node("Transpose", f"{at}_mixed", f"{at}_joined", perm=list(joined)),
        _node("Reshape", f"{at}_joined to_rows", f"{at}_out"),
    ]
    return nodes, weights


def _constants() -> list[Any]:
    """The stored numbers that all layers read."""
    stored_numbers = {
        "to_heads": [0, 0, HEADS, SIZE],
        "to_rows": [0, 0, WIDTH],
        "to_mask": [0, 1, 1, -1],
        "from_flat": [-1, HEADS, SIZE],
        "two": [2],
        "three": [3],
        "four": [4],
        "minus": [-1],
    }
    weights = [stored(name, np.array(numbers, np.int64)) for name, numbers in stored_numbers.items()]
    return weights + [
        stored(name, np.array(number, np.float32)) for name, number in (("divisor", 2.5), ("root", 0.4**0.5))
    ]


def _attentions(*, opset: int = OPSET, **kind: Any) -> Any:
    """Two attentions with one mask that has no rows of its own."""
    nodes, weights = [_node("Reshape", "seen to_mask", "mask")], _constants()
    before = "x"
    for at in ("one", "second"):
        more, own = _layer(before, at, **kind)
        nodes, weights, before = [*nodes, *more], [*weights, *own], f"{at}_out"
    nodes.append(_node("Relu", before, "y"))
    inputs = [floats("x", ["N", "T", WIDTH]), floats("seen", ["N", "T"])]
    return model(nodes, inputs, [floats("y", ["N", "T", WIDTH])], weights, opset=opset)


def _of_another_text() -> Any:
    """An attention of a text to itself, and of another text to that one, with the one mask of the first text."""
    one, own = _layer("x", "one")
    other, weights = _layer("one_out", "second", asks="z")
    nodes = [_node("Reshape", "seen to_mask", "mask"), *one, *other, _node("Relu", "second_out", "y")]
    inputs = [floats("x", ["N", "T", WIDTH]), floats("seen", ["N", "T"]), floats("z", ["N", "U", WIDTH])]
    return model(nodes, inputs, [floats("y", ["N", "U", WIDTH])], [*_constants(), *own, *weights])


def _side_by_side() -> Any:
    """Two attentions of the same rows; the one whose softmax is the first ends last."""
    one, own = _layer("x", "one")
    second, weights = _layer("x", "second")
    *begun, joins, rows = one
    nodes = [_node("Reshape", "seen to_mask", "mask"), *begun, *second, joins, rows]
    nodes.append(_node("Add", "one_out second_out", "y"))
    inputs = [floats("x", ["N", "T", WIDTH]), floats("seen", ["N", "T"])]
    return model(nodes, inputs, [floats("y", ["N", "T", WIDTH])], [*_constants(), *own, *weights])


def _values_scaled() -> Any:
    proto = _attentions()
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        if node.output[0] in {"one_v", "second_v"}:
            scaled = _node("Mul", f"{node.output[0]}_whole root", node.output[0])
            node.output[0] += "_whole"
            nodes.append(scaled)
    return _with_nodes(proto, nodes)


def _softmax_over_all_heads() -> Any:
    """Without an axis, opset 12 takes the heads, their rows and the columns as one."""
    proto = _attentions(opset=12)
    for node in proto.graph.node:
        if node.op_type == "Softmax":
            del node.attribute[:]
    return proto


def _number_as_mask() -> Any:
    proto = _attentions()
    kept = [node for node in proto.graph.node if node.output[0] != "mask"]
    proto.graph.initializer.append(stored("mask", np.array(0.5, np.float32)))
    return _with_nodes(proto, kept)


def _one_bias_for_all_channels() -> Any:
    proto = _attentions()
    for tensor in proto.graph.initializer:
        if tensor.name in {"one_q_b", "second_q_b"}:
            tensor.CopyFrom(stored(tensor.name, numpy_helper.to_array(tensor)[:1]))
    return proto


def _in_float16() -> Any:
    """Without the division, since a number in float16 is no scale that is looked for."""
    proto = _attentions()
    nodes = [node for node in proto.graph.node if node.op_type != "Div"]
    for node in nodes:
        node.input[:] = [name.replace("_scaled", "_products") for name in node.input]
    return convert_float_to_float16(_with_nodes(proto, nodes), keep_io_types=True)


def _with_nodes(proto: Any, nodes: Sequence[Any]) -> Any:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    return proto


def _made(step: Any, root: Path, before: Ran, name: str, options: OnnxInt8Options | None = None) -> Ran:
    folders = {part: root / name / part for part in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0, options=options).as_json(),
        {"model": before.folder, "import": root / "import" / "output"},
        folders["output"],
        folders["scratch"],
        root,
    )
    return Ran(context.output, step(context))


def _answers(ran: Ran, declared: Any = DECLARED, given: Any = GIVEN) -> Any:
    return open_onnx(ran.folder, Signature.from_json(declared), 1).run(given)["y"]


@pytest.mark.parametrize("biased", [True, False], ids=["biased", "unbiased"])
@pytest.mark.parametrize("fused", [True, False], ids=["scaled_dot_product_attention", "by hand"])
def test_every_attention_is_one_operator_with_the_same_answers(tmp_path: Path, *, biased: bool, fused: bool) -> None:
    converted = run_convert(saved(_attentions(biased=biased, fused=fused), tmp_path), tmp_path, DECLARED, samples=GIVEN)

    ran = _made(to_fused, tmp_path, converted, "fused")

    operators = Counter(node.op_type for node in ran.proto.graph.node)
    assert operators["MultiHeadAttention"] == 2
    assert operators["Expand"] == 1, "the mask is stretched once for both"
    assert not set(operators) & {"Softmax", "Transpose", "Div", "Mul", "Add"} - (set() if biased else {"Add"})
    assert ran.facts["notes"] == ["2 attentions are one operator each of ONNX Runtime"]
    assert ran.facts["checked"] == converted.facts["checked"]
    np.testing.assert_allclose(_answers(converted), _answers(ran), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "quantized"), [("auto", "MatMulInteger"), ("static", "DequantizeLinear")])
def test_products_around_a_fused_attention_are_quantized(
    tmp_path: Path, method: Literal["auto", "static"], quantized: str
) -> None:
    converted = run_convert(saved(_attentions(), tmp_path), tmp_path, DECLARED, samples=GIVEN)
    fused = _made(to_fused, tmp_path, converted, "fused")

    ran = _made(to_int8, tmp_path, fused, "int8", OnnxInt8Options(method=method))

    operators = Counter(node.op_type for node in ran.proto.graph.node)
    assert operators["MultiHeadAttention"] == 2
    assert operators[quantized] >= 6
    assert sum(each.data_type == TensorProto.INT8 and len(each.dims) == 2 for each in ran.proto.graph.initializer) == 6
    exact, rounded = _answers(converted), _answers(ran)
    assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


def test_a_mask_that_texts_of_two_lengths_share_has_the_rows_of_each(tmp_path: Path) -> None:
    given = {**GIVEN, "z": np.random.default_rng(2).normal(size=(12, 4, WIDTH)).astype(np.float32)}
    declared = signature(
        {
            "x": ("float32", ["batch", "tokens", WIDTH]),
            "seen": ("float32", ["batch", "tokens"]),
            "z": ("float32", ["batch", "asked", WIDTH]),
        },
        dims={"batch": (1, 16), "tokens": (1, 12), "asked": (1, 12)},
    )
    converted = run_convert(saved(_of_another_text(), tmp_path), tmp_path, declared, samples=given)

    ran = _made(to_fused, tmp_path, converted, "fused")

    assert Counter(node.op_type for node in ran.proto.graph.node)["MultiHeadAttention"] == 2
    np.testing.assert_allclose(
        _answers(converted, declared, given), _answers(ran, declared, given), rtol=1e-4, atol=1e-5
    )


def test_a_mask_is_stretched_before_the_first_operator_that_reads_it(tmp_path: Path) -> None:
    converted = run_convert(saved(_side_by_side(), tmp_path), tmp_path, DECLARED, samples=GIVEN)

    graph = _made(to_fused, tmp_path, converted, "fused").proto.graph

    known = {each.name for each in (*graph.input, *graph.initializer)}
    for node in graph.node:
        assert {name for name in node.input if name} <= known, node.name
        known |= set(node.output)
    assert sum(node.op_type == "Expand" for node in graph.node) == 1


def test_in_an_early_opset_an_axis_that_is_given_is_read(tmp_path: Path) -> None:
    converted = run_convert(saved(_attentions(opset=12), tmp_path), tmp_path, DECLARED, samples=GIVEN)

    ran = _made(to_fused, tmp_path, converted, "fused")

    np.testing.assert_allclose(_answers(converted), _answers(ran), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: _attentions(joined=(0, 2, 3, 1)), id="channels before heads"),
        pytest.param(_values_scaled, id="values scaled"),
        pytest.param(_softmax_over_all_heads, id="softmax over all heads"),
        pytest.param(_number_as_mask, id="a number as mask"),
        pytest.param(_one_bias_for_all_channels, id="one bias for all channels"),
        pytest.param(_in_float16, id="float16"),
    ],
)
def test_what_only_looks_like_an_attention_stays_as_it_is(tmp_path: Path, made: Callable[[], Any]) -> None:
    converted = run_convert(saved(made(), tmp_path), tmp_path, DECLARED, samples=GIVEN)

    error = refused("E425", _made, to_fused, tmp_path, converted, "fused")

    assert error.message == "the model gains nothing by joining attentions"
