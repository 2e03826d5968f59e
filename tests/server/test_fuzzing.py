"""Random and mutilated requests over real connections, HTTP and gRPC: an answer or a closed connection, nothing else."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.conftest import EVERY_TYPE, Running, every_type_model, starting

pytestmark = pytest.mark.frameworks

PATH = "/v2/models/m/infer"
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        folder = tmp_path_factory.mktemp("every")
        yield start(every_type_model(folder, request_timeout_s=2, max_body_bytes=100_000, grpc_port=0))


@pytest.fixture(autouse=True)
def lives_on(server: Running) -> Iterator[None]:
    yield
    assert server.infer(document()).status == 200
    assert server.process.poll() is None
    assert not [line for line in server.log if line["level"] == "error"]


def document() -> dict[str, list[dict[str, object]]]:
    return {
        "inputs": [
            {"name": f"in_{dtype}", "datatype": datatype, "shape": [2, 2], "data": values}
            for dtype, (datatype, values) in EVERY_TYPE.items()
        ]
    }


def raw(dtype: str) -> bytes:
    if dtype == "string":
        texts = [str(text).encode() for text in EVERY_TYPE[dtype][1]]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(EVERY_TYPE[dtype][1], dtype=dtype).tobytes()


def binary() -> tuple[bytes, int]:
    """A whole binary request's body, and how much of it is JSON."""
    blobs = [raw(dtype) for dtype in EVERY_TYPE]
    inputs = [
        {"name": f"in_{dtype}", "datatype": kind, "shape": [2, 2], "parameters": {"binary_data_size": len(blob)}}
        for (dtype, (kind, _)), blob in zip(EVERY_TYPE.items(), blobs, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(blobs), len(head)


BINARY, JSON_LENGTH = binary()
JSON = json.dumps(document()).encode()


@st.composite
def mutilated(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a few bytes changed, cut out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = draw(st.integers(place, min(len(data), place + 8)))
        data[place:end] = draw(st.binary(max_size=8))
    return bytes(data)


def talk(server: Running, pieces: list[bytes]) -> bytes:
    """Send the pieces over one connection, say that there is no more, and read until the server closes it."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionError, OSError):
            pass
    return received


@SETTINGS
@given(body=mutilated(JSON))
def test_a_mutilated_json_body_is_answered_or_refused(server: Running, body: bytes) -> None:
    answer = server.ask("POST", PATH, body)
    assert answer.status in {200, 400, 504}
    json.loads(answer.body)


@SETTINGS
@given(body=mutilated(BINARY), length=st.just(JSON_LENGTH) | st.integers(0, len(BINARY) + 10))
def test_a_mutilated_binary_body_is_answered_or_refused(server: Running, body: bytes, length: int) -> None:
    answer = server.ask("POST", PATH, body, {"Inference-Header-Content-Length": str(length)})
    assert answer.status in {200, 400, 504}


REQUEST = b"POST %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
    PATH.encode(),
    len(JSON),
    JSON,
)
CHUNKED = (
    b"POST %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (
        PATH.encode(),
        len(JSON),
        JSON,
    )
)


@SETTINGS
@given(whole=mutilated(REQUEST) | mutilated(CHUNKED) | st.binary(max_size=500), cuts=st.lists(st.integers(0, 3000)))
def test_mutilated_http_gets_an_answer_or_a_closed_connection(server: Running, whole: bytes, cuts: list[int]) -> None:
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    pieces = [whole[start:end] for start, end in itertools.pairwise(places)]
    answer = talk(server, pieces)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 504", b"HTTP/1.1 100"))


@pytest.mark.parametrize("whole", [REQUEST, CHUNKED])
def test_a_request_may_come_in_any_pieces(server: Running, whole: bytes) -> None:
    for size in (1, 7, 100):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), size):
                connection.sendall(whole[start : start + size])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@SETTINGS
@given(data=st.binary(max_size=300))
def test_any_bytes_as_a_grpc_message_are_answered_or_refused(server: Running, data: bytes) -> None:
    grpc = pytest.importorskip("grpc")
    port = server.wait_for_log("live")["grpc_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as raised:
            stub(data, timeout=30)
        assert raised.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@SETTINGS
@given(data=st.data())
def test_a_mutilated_grpc_message_is_answered_or_refused(server: Running, data: st.DataObject) -> None:
    grpc = pytest.importorskip("grpc")
    from orchestrator.server import open_inference_pb2 as pb

    message = pb.ModelInferRequest(model_name="m")
    for dtype, (datatype, _) in EVERY_TYPE.items():
        message.inputs.add(name=f"in_{dtype}", datatype=datatype, shape=[2, 2])
        message.raw_input_contents.append(raw(dtype))
    body = data.draw(mutilated(message.SerializeToString()))
    port = server.wait_for_log("live")["grpc_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        codes = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        assert stub.future(body, timeout=30).code() in codes


@SETTINGS
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_at_the_grpc_port_does_not_stop_the_server(server: Running, noise: bytes) -> None:
    port = server.wait_for_log("live")["grpc_port"]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(noise)
