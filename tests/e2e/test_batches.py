"""Models whose requests cannot be put together, and one whose batch is 2 at least: from the file to answers.

A decision says why requests are answered one by one. Answers are those of the bare framework.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: {kind}, weights: {weights}}}
{model}
  samples: {name}.npz
optimize: {{precisions: [fp32], formats: [onnx], time_budget: {budget}}}
serving: {{backend: onnxruntime}}
hardware: {{cpus: 1, memory: 1Gi}}
slo: {{p99_latency: 1s, throughput: 200/s, enforce: false}}
"""


_STEPS = """\
import torch


class Steps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(4, 6)  # of [time, 1, 4], as PyTorch's layers take sequences by default

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return y, h, c
"""


def _onnx(name: str, nodes: Any, inputs: Any, outputs: Any, **constants: Any) -> Any:
    """A model; inputs and outputs are name → shape, all of float32."""

    def infos(tensors: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in tensors.items()]

    values = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, infos(inputs), infos(outputs), values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _applied(
    mlo: Mlo, name: str, kind: str, weights: str, model: str, budget: str = "20s", **samples: Any
) -> dict[str, Any]:
    np.savez(mlo.folder / f"{name}.npz", allow_pickle=False, **samples)
    spec = mlo.folder / f"{name}.yaml"
    spec.write_text(_SPEC.format(name=name, kind=kind, weights=weights, model=model, budget=budget), encoding="utf-8")
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]
    assert deployment["decision"]["winner"]["variant"] == "onnx-fp32"
    return dict(deployment)


def _largest_batch(deployment: dict[str, Any]) -> int:
    settings = json.loads((Path(deployment["artifacts"]) / "serving" / "server.json").read_text(encoding="utf-8"))
    return int(settings["max_batch_size"])


def _predict(mlo: Mlo, name: str, **inputs: Any) -> dict[str, Any]:
    file = mlo.folder / "request.npz"
    np.savez(file, allow_pickle=False, **inputs)
    return dict(mlo.json("predict", name, "--input", str(file), "--json")["outputs"])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_sequence_whose_first_dimension_is_no_batch(mlo: Mlo) -> None:
    (mlo.folder / "steps_model.py").write_text(_STEPS, encoding="utf-8")
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(4, 6).eval()
    save_file({f"lstm.{name}": tensor for name, tensor in lstm.state_dict().items()}, mlo.folder / "steps.safetensors")
    x = np.random.default_rng(0).normal(size=(12, 7, 1, 4)).astype(np.float32)
    model = """\
  inputs: [{name: x, dtype: float32, shape: [steps, 1, 4]}]
  outputs: [{name: y}, {name: h}, {name: c}]
  dims: {steps: {min: 2, max: 32}}
  batch: none"""
    deployment = _applied(mlo, "steps", "pytorch", "steps.safetensors, factory: 'steps_model:Steps'", model, "1m", x=x)
    assert _largest_batch(deployment) == 1
    why = "requests are answered one by one: the spec says `batch: none`."
    assert deployment["decision"]["one_by_one"] == "the spec says `batch: none`"
    assert why in _one_line(mlo.run("plan", "steps.yaml").stdout)
    assert why in _one_line(mlo.run("explain", "steps.yaml").stdout)
    assert why in _one_line(mlo.run("explain", "steps.yaml", "onnx-fp32").stdout)
    for sequence in (x[0], np.concatenate(x[:3])):
        answer = _predict(mlo, "steps", x=sequence)
        with torch.inference_mode():
            y, (h, c) = lstm(torch.from_numpy(sequence))
        for name, expected in (("y", y), ("h", h), ("c", c)):
            np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)
    several = _predict(mlo, "steps", x=x)
    assert np.shape(several["y"]) == (12, 7, 1, 6)
    np.testing.assert_allclose(several["y"][0], _predict(mlo, "steps", x=x[0])["y"], rtol=1e-5)


def test_a_number_of_rows_that_depends_on_values(mlo: Mlo) -> None:
    """The end of a detector: what survives non-maximum suppression."""
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"], ["kept"]),
        helper.make_node("Gather", ["kept", "two"], ["column"], axis=1),
        helper.make_node("Squeeze", ["column", "one"], ["index"]),
        helper.make_node("Squeeze", ["boxes", "zero"], ["flat"]),
        helper.make_node("Gather", ["flat", "index"], ["found"], axis=0),
    ]
    constants = {
        "most": [10],
        "iou": np.full(1, 0.5, np.float32),
        "least": np.full(1, 0.3, np.float32),
        "two": [2],
        "one": [1],
        "zero": [0],
    }
    inputs = {"boxes": [1, 12, 4], "scores": [1, 1, 12]}
    onnx.save(_onnx("detector", nodes, inputs, {"found": ["kept", 4]}, **constants), mlo.folder / "detector.onnx")
    draw = np.random.default_rng(0)
    low = draw.random((16, 1, 12, 2))
    boxes = np.concatenate([low, low + 0.1 + 0.3 * draw.random(low.shape)], axis=-1).astype(np.float32)
    scores = draw.random((16, 1, 1, 12)).astype(np.float32)
    deployment = _applied(mlo, "detector", "onnx", "detector.onnx", "", boxes=boxes, scores=scores)
    assert _largest_batch(deployment) == 1
    why = "no named dimension is the first one of every input"
    assert f"answered one by one: {why}." in _one_line(mlo.run("explain", "detector.yaml").stdout)
    session = onnxruntime.InferenceSession(mlo.folder / "detector.onnx")
    numbers = set()
    for row in range(4):
        given = {"boxes": boxes[row], "scores": scores[row]}
        found = np.array(_predict(mlo, "detector", **given)["found"], np.float32)
        np.testing.assert_allclose(found, session.run(None, given)[0], rtol=1e-6)
        numbers.add(len(found))
    assert len(numbers) > 1


def test_an_output_of_one_number_for_a_whole_batch(mlo: Mlo) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ReduceSum", ["scores"], ["all"], keepdims=0),
        helper.make_node("Reshape", ["all", "shape"], ["total"]),
    ]
    w = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
    onnx.save(_onnx("total", nodes, {"x": ["rows", 4]}, {"total": [1]}, w=w, shape=[1]), mlo.folder / "total.onnx")
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    deployment = _applied(mlo, "total", "onnx", "total.onnx", "  dims: {rows: {min: 1, max: 4}}", x=x)
    assert _largest_batch(deployment) == 1
    why = "the rows of a batch cannot be told apart in `total`: its shape is [1]"
    assert deployment["decision"]["one_by_one"] == why
    assert f"answered one by one: {why}." in _one_line(mlo.run("explain", "total.yaml").stdout)
    for rows in (1, 3):
        answer = _predict(mlo, "total", x=x[:rows])
        np.testing.assert_allclose(answer["total"], [(x[:rows] @ w).sum()], rtol=1e-4, atol=1e-5)


def test_a_batch_of_two_at_least(mlo: Mlo) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Sub", ["rows", "two"], ["more"]),
        helper.make_node("ConstantOfShape", ["more"], ["nothing"]),  # which fails for a single row
        helper.make_node("ReduceSum", ["nothing"], ["zero"], keepdims=0),
        helper.make_node("Add", ["scores", "zero"], ["y"]),
    ]
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    onnx.save(_onnx("pairs", nodes, {"x": ["rows", 4]}, {"y": ["rows", 3]}, w=w, two=[2]), mlo.folder / "pairs.onnx")
    x = np.random.default_rng(0).normal(size=(21, 4)).astype(np.float32)
    deployment = _applied(mlo, "pairs", "onnx", "pairs.onnx", "  dims: {rows: {min: 2, max: 8}}", x=x)
    assert 2 <= _largest_batch(deployment) <= 8
    assert deployment["decision"]["one_by_one"] is None
    assert "one by one" not in mlo.run("explain", "pairs.yaml").stdout
    for rows in (2, 5, 17):  # the last one is sent in several requests, none of a single row
        np.testing.assert_allclose(_predict(mlo, "pairs", x=x[:rows])["y"], x[:rows] @ w, rtol=1e-4, atol=1e-5)
    alone = mlo.folder / "alone.json"
    alone.write_text(json.dumps({"x": x[:1].tolist()}), encoding="utf-8")
    assert "rows is 1, but the model takes 2 to 8" in _one_line(
        mlo.run("predict", "pairs", "--input", str(alone), code=64).stderr
    )
