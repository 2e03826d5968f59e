"""A rendered server with `serving.limits.queue`, asked by more clients than may wait."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.backends.wire import encode_message
from tests.render.served import ROW, Served

pytestmark = [pytest.mark.frameworks, pytest.mark.processes]

_CLIENTS = 40
_TURNS = 40_000
"""Of the model's loop: one call takes far longer than it takes all clients to connect, whatever the machine."""


def _slow() -> bytes:
    """y = x, after many multiplications by the identity."""
    shape = ["batch", 3]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["h", "w"], ["h_next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_next", TensorProto.FLOAT, shape),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)],
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array(_TURNS, np.int64), "turns"),
        ],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return made


def test_who_finds_the_queue_full_is_told_to_come_again(serve: Callable[..., Served]) -> None:
    grpc = pytest.importorskip("grpc")
    served = serve(model=_slow(), grpc=True, limits={"queue": 2, "request_timeout": 60.0})
    printed = served.run(
        "curl", "--silent", "--parallel", "--parallel-immediate", "--parallel-max", str(_CLIENTS), "--max-time", "90",
        "--data-binary", ROW, "--output", os.devnull, "--write-out", "%{http_code} %header{retry-after}\\n",
        f"{served.url}/v2/models/digits/infer?client=[1-{_CLIENTS}]",
    )  # fmt: skip
    answers = [tuple(line.split(" ")) for line in printed.splitlines()]
    assert len(answers) == _CLIENTS
    assert set(answers) == {("200", ""), ("429", "1")}
    assert served.status() == 200, "who comes again is answered"

    with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        message = encode_message("digits", {"x": np.ones((1, 3), np.float32)})
        codes = {call.code() for call in [infer.future(message, timeout=90) for _ in range(_CLIENTS)]}
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}

    counted = served.run("curl", "--silent", "--max-time", "30", f"{served.url}/metrics")
    refused = sum(status == "429" for status, _ in answers)
    assert f'mlo_requests_total{{code="429",protocol="http"}} {refused}.0' in counted
    assert 'mlo_rejections_total{reason="queue_full"}' in counted
