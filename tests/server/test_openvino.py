"""The server with a session of OpenVINO: what it answers, what it refuses, and that nothing is sent or written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.server.conftest import EVERY_TYPE, Start, add_model, signature, write_server

pytestmark = pytest.mark.processes

pytest.importorskip("openvino")

SETTINGS = {"runtime": "openvino"}
EXACT = ["bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32"]
INEXACT = ["uint64", "float64", "string"]


def identity_model(folder: Path, dtypes: list[str], **settings: Any) -> Path:
    """`out_T` = `in_T` over [batch, 2], for these types."""
    inputs: dict[str, tuple[str, list[int | str]]] = {f"in_{dtype}": (dtype, ["batch", 2]) for dtype in dtypes}
    outputs: dict[str, tuple[str, list[int | str]]] = {f"out_{dtype}": (dtype, ["batch", 2]) for dtype in dtypes}
    nodes = [helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]) for dtype in dtypes]
    return write_server(folder, nodes, signature(inputs, outputs, {"batch": [1, 8]}), **settings)


def test_every_type_that_it_computes_exactly_comes_back(tmp_path: Path, start: Start) -> None:
    server = start(identity_model(tmp_path, EXACT, **SETTINGS))
    inputs = [
        {"name": f"in_{dtype}", "datatype": EVERY_TYPE[dtype][0], "shape": [2, 2], "data": EVERY_TYPE[dtype][1]}
        for dtype in EXACT
    ]
    answer = server.infer({"inputs": inputs})
    assert answer.status == 200, answer.body
    for output in answer.json["outputs"]:
        dtype = output["name"].removeprefix("out_")
        assert output["datatype"] == EVERY_TYPE[dtype][0]
        expected = np.array(EVERY_TYPE[dtype][1], dtype)
        np.testing.assert_array_equal(np.array(output["data"], dtype), expected, dtype)
    assert server.ask("GET", "/v2/models/m").json["platform"] == "openvino_onnx"


@pytest.mark.parametrize("dtype", INEXACT)
def test_a_type_that_it_does_not_compute_exactly_is_refused_at_the_start(
    tmp_path: Path, start: Start, dtype: str
) -> None:
    server = start(identity_model(tmp_path, [dtype], **SETTINGS), ready=False)
    assert server.wait_end() != 0
    assert any(f"'in_{dtype}' is {dtype}, and OpenVINO" in line["message"] for line in server.log), server.raw


def test_int64_is_accepted_up_to_32_bits(tmp_path: Path, start: Start) -> None:
    server = start(identity_model(tmp_path, ["int64"], **SETTINGS))

    def ask(*values: int) -> Any:
        tensor = {"name": "in_int64", "datatype": "INT64", "shape": [1, 2], "data": values}
        return server.infer({"inputs": [tensor]})

    assert ask(-(2**31), 2**31 - 1).json["outputs"][0]["data"] == [-(2**31), 2**31 - 1]
    refused = ask(0, 2**31)
    assert refused.status == 400
    assert "32 bits" in refused.json["error"]


def test_requests_of_several_sizes_go_together(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, **SETTINGS, max_delay_us=100_000, max_batch_size=8))
    for rows in (1, 3, 2, 16):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        tensors = [
            {"name": name, "datatype": "FP32", "shape": [rows, 3], "data": x.ravel().tolist()} for name in ("x", "y")
        ]
        answer = server.infer({"inputs": tensors})
        assert answer.status == 200, answer.body
        assert answer.json["outputs"][0]["data"] == (2 * x).ravel().tolist()


def test_a_quantized_model_agrees_with_onnx_runtime(tmp_path: Path, start: Start) -> None:
    """Weights and activations in int8 between QuantizeLinear and DequantizeLinear, as mlo makes them."""
    random = np.random.default_rng(0)
    weights = random.integers(-60, 60, (16, 4), dtype=np.int8)
    constants = [
        numpy_helper.from_array(np.array(0.02, np.float32), "x_scale"),
        numpy_helper.from_array(np.array(3, np.int8), "x_zero"),
        numpy_helper.from_array(np.array(0.01, np.float32), "w_scale"),
        numpy_helper.from_array(np.array(0, np.int8), "w_zero"),
        numpy_helper.from_array(weights, "w"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    sig = signature({"x": ("float32", ["batch", 16])}, {"y": ("float32", ["batch", 4])}, {"batch": [1, 8]})
    x = random.normal(size=(8, 16)).astype(np.float32)
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [8, 16], "data": x.ravel().tolist()}]}
    answers = []
    for runtime in ("onnxruntime", "openvino"):
        (tmp_path / runtime).mkdir()
        server = start(write_server(tmp_path / runtime, nodes, sig, constants, runtime=runtime))
        answer = server.infer(request)
        assert answer.status == 200, answer.body
        answers.append(answer.json["outputs"][0]["data"])
    # One step of the quantization: where a value lies between two, either may be taken.
    np.testing.assert_allclose(answers[1], answers[0], atol=0.02 * 0.6 * 2)


def test_a_model_that_does_not_load_is_reported(tmp_path: Path, start: Start) -> None:
    node = helper.make_node("Nothing", ["x"], ["y"], domain="example.com")
    sig = signature({"x": ("float32", ["batch", 3])}, {"y": ("float32", ["batch", 3])}, {"batch": [1, 8]})
    path = add_model(tmp_path, **SETTINGS)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("example.com", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    content = model.SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    import hashlib
    import json

    document = json.loads(path.read_text())
    document["model"] |= {"sha256": hashlib.sha256(content).hexdigest(), "signature": sig}
    path.write_text(json.dumps(document))
    server = start(path, ready=False)
    assert server.wait_end() != 0
    assert any("OpenVINO does not load it" in line["message"] for line in server.log), server.raw


@pytest.mark.parametrize(
    "module", ["orchestrator.server.openvino_session", "orchestrator.frameworks.onnx.openvino_runtime"]
)
def test_nothing_is_sent_or_written_when_it_is_imported(tmp_path: Path, module: str) -> None:
    script = f"import {module}, sys; print([m for m in sys.modules if m.startswith('openvino_telemetry.')])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_where_it_is_measured_it_refuses_the_values_that_the_server_refuses(tmp_path: Path) -> None:
    """In a process of its own, since it may not share one with other frameworks' threads."""
    identity_model(tmp_path, ["int64"])
    script = """
import sys, numpy as np
from pathlib import Path
from orchestrator.frameworks.onnx.openvino_runtime import open_onnx
from orchestrator.spec.signature import Signature, Tensor
tensors = [(Tensor(f"{side}_int64", "int64", ("batch", 2)),) for side in ("in", "out")]
runtime = open_onnx(Path(sys.argv[1]), Signature(*tensors, dims={"batch": (1, 8)}, batch="batch"), 1)
assert runtime.run({"in_int64": np.array([[-(2**31), 2**31 - 1]])})["out_int64"].tolist() == [[-(2**31), 2**31 - 1]]
try:
    runtime.run({"in_int64": np.array([[0, 2**31]])})
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "values that need more than 32 bits" in done.stdout
