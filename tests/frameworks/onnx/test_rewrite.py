"""Passes that rewrite the graph: the same answers from another graph, and refused where it would be the same graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.rewrite import to_optimized, to_slim
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.optimize.passes import PASSES
from orchestrator.optimize.transform import Transform
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import OptimizeParameters, SourceParameters
from tests.frameworks.onnx.case import Ran, floats, linear, model, refused, run_convert, saved, signature, stored

pytestmark = pytest.mark.frameworks

X = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
DECLARED = signature({"x": ("float32", ["batch", 64])})
Pass = Callable[[StepContext], dict[str, Any]]


def _twice_transposed() -> Any:
    """Two transpositions that cancel out, and a matrix product followed by an addition, which are one `Gemm`."""
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]),
        helper.make_node("MatMul", ["u", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["g"]),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    weights = [stored(n, random.normal(size=s).astype(np.float32)) for n, s in (("w", (64, 10)), ("b", (10,)))]
    return model(nodes, [floats("x", ["N", 64])], [floats("y", ["N", 10])], weights)


def _rewritten(root: Path, make: Pass, converted: Ran, name: str = "rewritten") -> Ran:
    folders = {part: root / name / part for part in ("output", "scratch")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    context = StepContext(
        OptimizeParameters(SourceParameters("onnx"), seed=0).as_json(),
        {"model": converted.folder, "import": root / "import" / "output"},
        folders["output"],
        folders["scratch"],
        root,
    )
    return Ran(context.output, make(context))


@pytest.mark.parametrize("make", [to_slim, to_optimized])
@pytest.mark.parametrize("large", [False, True])
def test_a_rewritten_graph_has_fewer_nodes_and_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Pass, *, large: bool
) -> None:
    if large:
        monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 100)
    converted = run_convert(saved(_twice_transposed(), tmp_path), tmp_path, DECLARED, samples={"x": X})

    ran = _rewritten(tmp_path, make, converted)

    before, after = (Counter(node.op_type for node in each.proto.graph.node) for each in (converted, ran))
    assert sum(after.values()) < sum(before.values())
    assert not after["Transpose"]
    assert (ran.facts["nodes"], ran.facts["operators"]) == (sum(after.values()), sorted(after))
    assert ran.facts["checked"] == converted.facts["checked"]
    assert (ran.folder / "model.onnx.data").is_file() is large
    one, other = (
        open_onnx(each.folder, Signature.from_json(DECLARED), 1).run({"x": X})["y"] for each in (converted, ran)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [to_slim, to_optimized])
def test_a_graph_that_stays_as_it_is_is_refused(tmp_path: Path, make: Pass) -> None:
    declared = signature({"x": ("float32", ["batch", 4])})
    converted = run_convert(saved(linear(), tmp_path), tmp_path, declared, samples={"x": X[:, :4].copy()})

    error = refused("E425", _rewritten, tmp_path, make, converted)

    assert error.message.startswith("the model gains nothing by ")


def test_a_graph_optimized_in_advance_is_made_for_this_cpu(tmp_path: Path) -> None:
    converted = run_convert(saved(_twice_transposed(), tmp_path), tmp_path, DECLARED, samples={"x": X})

    ran = _rewritten(tmp_path, to_optimized, converted)

    assert any("instructions of the one that made it" in note for note in ran.facts["notes"])
    (row,) = (each for each in PASSES if each.name == "ort")
    assert isinstance(row.made, Transform)
    assert row.made.needs_cpu_features
    assert {entry.domain for entry in ran.proto.opset_import} <= {"", "com.microsoft"}


def test_what_was_quantized_is_still_described(tmp_path: Path) -> None:
    """Facts that later steps need, such as the bits of the weights, survive a pass of the graph."""
    converted = run_convert(saved(_twice_transposed(), tmp_path), tmp_path, DECLARED, samples={"x": X})
    VariantFacts.read(converted.folder).model_copy(update={"reduce_range": True}).write(converted.folder)

    assert _rewritten(tmp_path, to_optimized, converted).facts["reduce_range"] is True
