"""An ONNX model served by OpenVINO, from the file to an answer of the deployment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from conftest import Mlo

pytest.importorskip("openvino")
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: small-net}
model:
  source: {kind: onnx, weights: net.onnx}
  dims: {batch: {min: 1, max: 8}}
  samples: samples.npz
optimize: {precisions: [fp32, int8], time_budget: 1m}
serving: {backend: openvino, wire: json}
hardware: {cpus: 1, memory: 1Gi}
slo: {p99_latency: 1s, throughput: 200/s, enforce: false}
"""


def test_a_whole_apply_with_openvino(mlo: Mlo) -> None:
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape).astype(np.float32) / 8 for shape in ((64, 64), (64, 10))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for array, name in zip(weights, "ab", strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, mlo.folder / "net.onnx")
    x = random.normal(size=(64, 64)).astype(np.float32)
    np.savez(mlo.folder / "samples.npz", x=x)
    spec = mlo.folder / "net.yaml"
    spec.write_text(_SPEC, encoding="utf-8")

    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]
    winner = deployment["decision"]["winner"]
    assert winner["backend"] == "openvino"

    (mlo.folder / "request.json").write_text(json.dumps({"x": x[:2].tolist()}), encoding="utf-8")
    outputs = mlo.json("predict", "small-net", "--input", str(mlo.folder / "request.json"), "--json")["outputs"]
    expected = np.maximum(x[:2] @ weights[0], 0) @ weights[1]
    tolerance = 1e-4 if winner["precision"] == "fp32" else 0.2
    np.testing.assert_allclose(outputs["y"], expected, atol=tolerance * np.abs(expected).max())
