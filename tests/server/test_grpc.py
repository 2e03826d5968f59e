"""The Open Inference Protocol v2 over gRPC, against the real server."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

grpc = pytest.importorskip("grpc")

from orchestrator.backends.wire import encode_message  # noqa: E402 - after the check that grpcio is there
from orchestrator.server import open_inference_pb2 as pb  # noqa: E402
from tests.server.conftest import (  # noqa: E402
    FOREVER,
    Running,
    Start,
    add_model,
    signature,
    spin,
    spin_model,
    starting,
    write_server,
)

pytestmark = pytest.mark.frameworks

Call = Callable[..., Any]


def caller(server: Running) -> tuple[Any, Call]:
    """A channel to the server, and (method, request, answer type) → answer."""
    port = server.wait_for_log("live")["grpc_port"]
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(method: str, request: Any, answer: Any, timeout: float = 30) -> Any:
        path = f"/inference.GRPCInferenceService/{method}"
        stub = channel.unary_unary(
            path,
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return stub(request, timeout=timeout)

    return channel, call


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    with starting() as start:
        channel, call_one = caller(start(add_model(tmp_path_factory.mktemp("add"), grpc_port=0)))
        yield call_one
        channel.close()


def request(**more: Any) -> Any:
    tensors = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="FP32", shape=[1, 3], contents=pb.InferTensorContents(fp32_contents=[1, 2, 3])
        )
        for name in "xy"
    ]
    return pb.ModelInferRequest(**{"model_name": "m", "inputs": tensors, **more})


def raw_request() -> Any:
    tensors = [pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=[1, 3]) for name in "xy"]
    return request(inputs=tensors, raw_input_contents=[struct.pack("<3f", 1, 2, 3)] * 2)


def refusal(
    call: Call, message: Any, method: str = "ModelInfer", answer: Any = pb.ModelInferResponse
) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(method, message, answer)
    return raised.value.code(), raised.value.details()


def test_server_and_model_describe_themselves(call: Call) -> None:
    assert call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert call("ModelReady", pb.ModelReadyRequest(name="m", version="1"), pb.ModelReadyResponse).ready
    assert call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).name == "mlo"
    metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse)
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
        ("x", "FP32", [-1, 3]),
        ("y", "FP32", [-1, 3]),
    ]
    assert list(metadata.versions) == ["1"]


@pytest.mark.parametrize("message", [request(id="a"), raw_request()], ids=["typed", "raw"])
def test_an_inference_is_answered(call: Call, message: Any) -> None:
    answer = call("ModelInfer", message, pb.ModelInferResponse)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", message.id)
    assert [(t.name, t.datatype, list(t.shape)) for t in answer.outputs] == [("z", "FP32", [1, 3])]
    assert struct.unpack("<3f", answer.raw_output_contents[0]) == (2, 4, 6)


def test_single_numbers_have_no_dimensions(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float32", [2]), "gain": ("float32", [])}, {"y": ("float32", [2])}, {}, batch=None)
    channel, call = caller(
        start(write_server(tmp_path, [helper.make_node("Mul", ["x", "gain"], ["y"])], sig, grpc_port=0))
    )
    inputs = {"x": np.array([1, 2], np.float32), "gain": np.array(2.5, np.float32)}
    answer = call("ModelInfer", encode_message("m", inputs), pb.ModelInferResponse)
    channel.close()
    assert answer.raw_output_contents[0] == struct.pack("<2f", 2.5, 5.0)


def test_what_is_wrong_is_named(call: Call) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(call, request(inputs=[]))[1] == "input 'x' is missing"
    short = raw_request()
    short.raw_input_contents[1] = b"\x00" * 8
    assert refusal(call, short) == (invalid, "input 'y': shape [1, 3] needs 3 elements, not 2")
    del short.raw_input_contents[1]
    assert refusal(call, short)[0] == invalid
    wrong = request()
    wrong.inputs[0].shape[0] = 2**62
    assert refusal(call, wrong)[0] == invalid
    empty = request()
    empty.inputs[0].ClearField("contents")
    assert refusal(call, empty)[0] == invalid
    wanted = pb.ModelInferRequest.InferRequestedOutputTensor(name="q")
    assert refusal(call, request(outputs=[wanted]))[0] == invalid
    twice = [pb.ModelInferRequest.InferRequestedOutputTensor(name="z")] * 2
    assert refusal(call, request(outputs=twice))[0] == invalid


def test_another_model_or_version_is_not_found(call: Call) -> None:
    missing = grpc.StatusCode.NOT_FOUND
    assert refusal(call, request(model_name="other"))[0] == missing
    assert refusal(call, request(model_version="2"))[0] == missing
    assert refusal(call, pb.ModelReadyRequest(name="other"), "ModelReady", pb.ModelReadyResponse)[0] == missing


def test_invalid_and_too_large_messages_are_refused(call: Call) -> None:
    assert refusal(call, b"\xff\xff\xff")[0] == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(call, request(id="x" * (2 << 20)))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call("ModelInfer", request(), pb.ModelInferResponse).outputs


def test_a_deadline_is_kept_and_the_queue_is_shared_with_http(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path, grpc_port=0))
    channel, call_one = caller(server)
    message = spinning(FOREVER)
    with pytest.raises(grpc.RpcError) as raised:
        call_one("ModelInfer", message, pb.ModelInferResponse, timeout=0.2)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # The model is still busy with what gRPC asked, so a request over HTTP waits and runs out of time.
    assert server.ask("POST", "/v2/models/m/infer", spin(1, parameters={"timeout": 1000})).status == 504
    channel.close()


def spinning(turns: int) -> Any:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="FP32", shape=[64, 64])
    message.inputs.add(name="turns", datatype="INT64", shape=[])
    message.raw_input_contents.extend([b"\x00" * 4 * 4096, struct.pack("<q", turns)])
    return message


def test_a_full_queue_is_reported_with_when_to_retry_and_cancelled_calls_leave_it(tmp_path: Path, start: Start) -> None:
    server = start(spin_model(tmp_path, grpc_port=0, queue_rows=1))
    channel, _ = caller(server)
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString)

    def queued(rows: int) -> bool:
        return f"mlo_queue_rows {rows}.0".encode() in server.ask("GET", "/metrics").body

    waiting = []
    while not queued(1):  # one runs, one waits; what comes too early is refused
        waiting.append(infer.future(spinning(FOREVER)))
    with pytest.raises(grpc.RpcError) as raised:
        infer(spinning(1))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    for call_one in waiting:
        call_one.cancel()
    while not queued(0):
        pass
    page = server.ask("GET", "/metrics").body
    assert b'mlo_requests_total{code="499",protocol="grpc"} 2.0' in page
    channel.close()


@pytest.mark.parametrize(("body", "calls"), [(1 << 20, 4096), (8 << 20, 512), (1 << 30, 256)])
def test_fewer_calls_are_open_at_once_where_each_may_be_large(body: int, calls: int) -> None:
    from orchestrator.server.grpc_service import calls_at_once

    assert calls_at_once(body) == calls


def test_it_serves_while_draining_and_then_ends(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, grpc_port=0, drain_seconds=1))
    channel, call_one = caller(server)
    server.process.terminate()
    server.wait_for_log("draining")
    assert not call_one("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    assert call_one("ModelInfer", request(), pb.ModelInferResponse).outputs
    assert server.wait_end() == 0
    channel.close()
