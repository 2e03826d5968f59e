"""The binary tensor extension's bytes, both ways; no model is involved."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.server.binary import decode_binary, encode_binary, from_bytes, to_bytes
from orchestrator.server.config import ModelConfig
from orchestrator.server.errors import RequestError
from orchestrator.server.protocol import decode_json
from orchestrator.server.signature import Signature, Tensor

SIGNATURE = Signature(
    {"x": Tensor("x", "float32", ("batch", 2)), "t": Tensor("t", "string", ("batch",))},
    {"y": Tensor("y", "float32", ("batch", 2)), "u": Tensor("u", "string", ("batch",))},
    {"batch": (1, 4)},
    "batch",
)
MODEL = ModelConfig("m", "1", Path("model.onnx"), "0" * 64, SIGNATURE, {})


def body(x: bytes, t: bytes, **more: Any) -> tuple[bytes, int]:
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": len(x)}},
        {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(t)}},
    ]
    head = json.dumps({"inputs": inputs} | more).encode()
    return head + x + t, len(head)


FLOATS = np.array([1.5, np.nan], "<f4").tobytes()
TEXT = struct.pack("<I", 3) + "aß".encode()


@pytest.mark.parametrize("padding", range(8))
def test_raw_tensors_are_read_wherever_they_begin(padding: int) -> None:
    request = decode_binary(*body(FLOATS, TEXT, id="i" * padding), SIGNATURE)
    x = request.inputs["x"]
    assert x.flags.aligned
    np.testing.assert_array_equal(x, np.array([[1.5, np.nan]], np.float32))
    assert request.inputs["t"].tolist() == ["aß"]


@pytest.mark.parametrize(
    ("x", "t", "extra", "says"),
    [
        (FLOATS[:-1], TEXT, b"", "7 bytes are not a multiple of the size of FP32"),
        (FLOATS[:-4], TEXT, b"", "needs . elements, not"),
        (FLOATS, TEXT + TEXT, b"", "needs . elements, not"),
        (FLOATS, TEXT[:-1], b"", "extends beyond"),
        (FLOATS, TEXT[:2], b"", "extends beyond"),
        (FLOATS, b"\xff\xff\xff\xffa", b"", "extends beyond"),
        (FLOATS, struct.pack("<I", 1) + b"\xff", b"", "not UTF-8"),
        (FLOATS, TEXT, b"more", "4 extra bytes after the tensors"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(x: bytes, t: bytes, extra: bytes, says: str) -> None:
    content, length = body(x, t)
    with pytest.raises(RequestError, match=says) as raised:
        decode_binary(content + extra, length, SIGNATURE)
    assert raised.value.status == 400


@pytest.mark.parametrize("size", [-1, 10**30, 1.5, True, "8", None])
def test_an_invalid_declared_size_is_refused(size: Any) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(RequestError):
        decode_binary(head + FLOATS, len(head), SIGNATURE)


def test_a_json_length_beyond_the_body_is_refused() -> None:
    content, _ = body(FLOATS, TEXT)
    with pytest.raises(RequestError, match="the body has"):
        decode_binary(content, len(content) + 1, SIGNATURE)


@given(st.binary(max_size=200), st.integers(0, 250))
def test_random_bytes_are_refused(content: bytes, length: int) -> None:
    with pytest.raises(RequestError):
        decode_binary(content, length, SIGNATURE)
    with pytest.raises(RequestError):
        decode_json(content, SIGNATURE)


def test_a_boolean_is_true_for_every_byte_but_zero() -> None:
    array = from_bytes(Tensor("b", "bool", (3,)), memoryview(b"\x00\x01\x02"))
    assert array.view(np.uint8).tolist() == [0, 1, 1]


def test_an_answer_mixes_raw_and_json_outputs_as_asked() -> None:
    wanted = [{"name": "u"}, {"name": "y", "parameters": {"binary_data": True}}]
    request = decode_binary(*body(FLOATS, TEXT, outputs=wanted), SIGNATURE)
    y = np.array([[1, np.inf]], np.float32)
    content, length = encode_binary(MODEL, request, {"y": y, "u": np.array(["ö"], object)})
    head = json.loads(content[:length])
    assert head["outputs"][0] == {"name": "u", "datatype": "BYTES", "shape": [1], "data": ["ö"]}
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert content[length:] == y.tobytes()


def test_binary_data_output_holds_for_all_outputs_that_do_not_say_otherwise() -> None:
    wanted = [{"name": "y"}, {"name": "u", "parameters": {"binary_data": False}}]
    request = decode_binary(*body(FLOATS, TEXT, parameters={"binary_data_output": True}, outputs=wanted), SIGNATURE)
    assert [(output.tensor.name, output.binary) for output in request.outputs] == [("y", True), ("u", False)]


def test_texts_come_back_as_they_were() -> None:
    texts = np.array(["", "aß", "x" * 300], object)
    assert from_bytes(Tensor("t", "string", (3,)), memoryview(to_bytes(texts))).tolist() == texts.tolist()
