"""ONNX models from the file to answers: the example, one that takes and returns texts, and one with a state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).resolve().parents[2] / "specs" / "onnx"

_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: onnx, weights: {name}.onnx}}
  dims: {{{dims}: {{min: 1, max: 4}}}}
  samples: {name}.npz
optimize: {{precisions: [fp32], time_budget: 30s}}
hardware: {{cpus: 1, memory: 1Gi}}
slo: {{p99_latency: 1s, throughput: 200/s, enforce: false}}
"""


def _save(folder: Path, name: str, proto: Any, dims: str, **samples: Any) -> Path:
    onnx.save(proto, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", allow_pickle=False, **samples)
    spec = folder / f"{name}.yaml"
    spec.write_text(_SPEC.format(name=name, dims=dims), encoding="utf-8")
    return spec


def _predict(mlo: Mlo, name: str, **inputs: Any) -> dict[str, Any]:
    file = mlo.folder / "request.json"
    file.write_text(json.dumps(inputs), encoding="utf-8")
    outputs: dict[str, Any] = mlo.json("predict", name, "--input", str(file), "--json")["outputs"]
    return outputs


def _apply(mlo: Mlo, spec: Path) -> dict[str, Any]:
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]
    assert deployment["decision"]["winner"]["variant"] == "onnx-fp32"
    return dict(deployment)


@pytest.fixture(scope="module")
def example(mlo: Mlo) -> Path:
    """The example without enforcing the service level: machines that test are noisy."""
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, mlo.folder / file.name)
    spec: Path = mlo.folder / "tumours.yaml"
    text = spec.read_text(encoding="utf-8").replace("throughput: 200/s}", "throughput: 200/s, enforce: false}")
    spec.write_text(text.replace("optimize:", "optimize:\n  time_budget: 30s"), encoding="utf-8")
    return spec


def _status_of(document: Any, step: str) -> str:
    (plan,) = document["plans"]
    return str(next(row["status"] for row in plan["steps"] if row["id"] == step))


def test_the_example_is_served_with_the_names_of_its_file(mlo: Mlo, example: Path) -> None:
    assert "measures" in mlo.run("plan", str(example)).stdout
    _apply(mlo, example)
    with np.load(mlo.folder / "samples.npz") as samples:
        measures, labels = samples["measures"][:20], samples["labels"][:20]
    answer = _predict(mlo, "tumours", measures=measures.tolist())
    probabilities = np.array(answer["probabilities"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.8


def test_the_second_file_belongs_to_the_model(mlo: Mlo, example: Path) -> None:
    assert _status_of(mlo.json("plan", str(example), "--json"), "import") == "cached"
    data = mlo.folder / "tumours.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-4] + bytes(4))
    assert _status_of(mlo.json("plan", str(example), "--json"), "import") == "run"
    data.unlink()
    failed = mlo.run("plan", str(example), code=65)
    assert "tumours.onnx.data" in failed.stderr
    data.symlink_to("/etc/hostname")
    refused = mlo.run("apply", str(example), "--yes", code=1)
    assert "E360" in refused.stderr
    assert "`tumours.onnx.data` is a symbolic link" in refused.stderr
    data.unlink()
    data.write_bytes(content)
    assert _status_of(mlo.json("plan", str(example), "--json"), "import") == "cached"


def _words_and_numbers() -> Any:
    """The rent class of a flat by its city (a text) and its size and floor: a score, and a class that is a text."""
    cities = ["Aachen", "Köln", "München"]
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(len(cities) + 2, 3)).astype(np.float32)
    nodes = [
        helper.make_node("OneHotEncoder", ["city"], ["hot"], domain="ai.onnx.ml", cats_strings=cities, zeros=1),
        helper.make_node("Concat", ["hot", "numbers"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["number"], axis=1, keepdims=0),
        helper.make_node("LabelEncoder", ["number"], ["class"], domain="ai.onnx.ml", keys_int64s=[0, 1, 2], values_strings=["günstig", "mittel", "teuer"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "rents",
        [
            helper.make_tensor_value_info("city", TensorProto.STRING, ["N"]),
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("class", TensorProto.STRING, ["N"]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_texts_go_in_and_come_out(mlo: Mlo) -> None:
    draw = np.random.default_rng(1)
    cities = draw.choice(["Aachen", "Köln", "München", "elsewhere"], 40)
    numbers = draw.normal(size=(40, 2)).astype(np.float32)
    proto = _words_and_numbers()
    spec = _save(mlo.folder, "rents", proto, "n", city=cities, numbers=numbers)
    _apply(mlo, spec)
    answer = _predict(mlo, "rents", city=["Köln", "nowhere"], numbers=[[1.0, 2.0], [0.5, 0.5]])
    weights = numpy_helper.to_array(proto.graph.initializer[0])
    rows = np.array([[0, 1, 0, 1.0, 2.0], [0, 0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(answer["scores"], rows @ weights, rtol=1e-4)
    assert answer["class"] == [["günstig", "mittel", "teuer"][number] for number in (rows @ weights).argmax(axis=1)]
    assert "string" in mlo.run("plan", str(spec)).stdout
    assert "class: string [2]" in mlo.run("predict", "rents", "--input", str(mlo.folder / "request.json")).stdout


def _one_step(weights: dict[str, Any]) -> Any:
    """One step of a recurrent network; its state goes in and out, with the batch as its second dimension."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["steps"]),
        helper.make_node("RNN", ["steps", "w", "r", "b", "", "h"], ["", "h1"], hidden_size=5),
        helper.make_node("Squeeze", ["h1", "axis"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3]),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, "rows", 5]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 5]),
            helper.make_tensor_value_info("h1", TensorProto.FLOAT, [1, "rows", 5]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_state_goes_in_and_out(mlo: Mlo) -> None:
    draw = np.random.default_rng(0)
    shapes = {"w": (1, 5, 3), "r": (1, 5, 5), "b": (1, 10)}
    weights = {name: draw.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    proto = _one_step({**weights, "axis": np.array([0])})
    x = draw.normal(size=(12, 2, 3)).astype(np.float32)
    h = draw.normal(size=(12, 1, 2, 5)).astype(np.float32)
    deployment = _apply(mlo, _save(mlo.folder, "steps", proto, "rows", x=x, h=h))
    w, r, b = (weights[name][0] for name in ("w", "r", "b"))
    state, expected = np.zeros((1, 2, 5)), np.zeros((2, 5))
    for inputs in x[:3]:
        answer = _predict(mlo, "steps", x=inputs.tolist(), h=state.tolist())
        expected = np.tanh(inputs @ w.T + b[:5] + expected @ r.T + b[5:])
        np.testing.assert_allclose(answer["y"], expected, rtol=1e-4, atol=1e-5)
        state = np.array(answer["h1"])
    batch = json.loads((Path(deployment["artifacts"]) / "serving" / "server.json").read_text(encoding="utf-8"))
    assert batch["max_batch_size"] == 1  # no dimension counts requests
