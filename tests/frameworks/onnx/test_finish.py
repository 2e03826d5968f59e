"""What an exporter wrote is compared with what the spec declares, and opened in the runtime, before anything else is done with it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.finish import finish
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

pytestmark = pytest.mark.frameworks

DECLARED = Signature(
    inputs=(Tensor("x", "float32", ("batch", "width")),),
    outputs=(Tensor("y", "float32", ("batch", "width")),),
    dims={"batch": (1, 8), "width": (2, 6)},
    batch="batch",
)


def exported(folder: Path, shape: list[int | str], operator: str = "Relu") -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_dimension_that_the_conversion_fixed_is_declared_or_read_from_the_shape(tmp_path: Path) -> None:
    with pytest.raises(StepError) as refused:
        finish(exported(tmp_path, ["s0", 4]), DECLARED)
    found = refused.value.diagnostic
    assert (found.code, found.message) == ("E424", "the conversion fixed dimension width of input x at 4")

    told = re.search(r"declare dimension (\w+) as (\d+): `dims: \{width: \{min: 4, max: 4\}\}`", found.remedy)
    assert told, found.remedy
    declared = replace(DECLARED, dims={**DECLARED.dims, told[1]: (int(told[2]), int(told[2]))})
    assert finish(exported(tmp_path, ["s0", 4]), declared)["nodes"] == 1

    assert "read sizes from the tensor's shape" in found.remedy
    assert finish(exported(tmp_path, ["s0", "s1"]), DECLARED)["nodes"] == 1


def test_a_file_that_onnx_itself_rejects_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(StepError) as refused:
        finish(exported(tmp_path, ["s0", "s1"], "NoSuchOperator"), DECLARED)
    assert refused.value.diagnostic.code == "E424"
    assert "NoSuchOperator" in refused.value.diagnostic.cause


def resizing(folder: Path, mode: str) -> Path:
    """A model that enlarges volumes, which ONNX Runtime does not do with `cubic`."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4, 4])
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [5], [1, 1, 2, 2, 2])
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode)
    graph = helper.make_graph([node], "g", [x], [y], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return folder


def test_a_resize_that_the_runtime_lacks_is_done_as_the_message_says(tmp_path: Path) -> None:
    volume = Signature(
        inputs=(Tensor("x", "float32", (1, 1, 2, 2, 2)),),
        outputs=(Tensor("y", "float32", (1, 1, 4, 4, 4)),),
        dims={},
        batch=None,
    )
    with pytest.raises(StepError) as refused:
        open_onnx(resizing(tmp_path, "cubic"), volume, 1)
    found = refused.value.diagnostic
    assert found.code == "E420"
    assert "resize with bilinear or nearest instead of bicubic" in found.remedy

    runtime = open_onnx(resizing(tmp_path, "nearest"), volume, 1)

    assert runtime.run({"x": np.ones((1, 1, 2, 2, 2), np.float32)})["y"].shape == (1, 1, 4, 4, 4)
