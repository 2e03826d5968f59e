"""Tensors go out as JSON of the protocol and come back as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.wire import DATATYPES, decode, encode_binary, encode_json


def _echo(body: bytes) -> bytes:
    """The answer of a server that returns its inputs."""
    return json.dumps({"outputs": json.loads(body)["inputs"]}).encode()


@pytest.mark.parametrize("dtype", sorted(DATATYPES))
def test_every_dtype_survives_a_round_trip(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    body, headers = encode_json({"a": array})
    assert headers["Content-Type"] == "application/json"
    back = decode(_echo(body), {})["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_texts_survive_a_round_trip() -> None:
    array = np.array([["NaN", "", 'say "no"'], ["Infinity", "schön", "\x01\n\U0001f680"]])
    body, _ = encode_json({"a": array, "none": np.zeros((0, 2), np.str_)})
    assert json.loads(body)["inputs"][0]["datatype"] == "BYTES"
    back = decode(_echo(body), {})
    np.testing.assert_array_equal(back["a"], array)
    assert (back["none"].shape, back["none"].dtype.kind) == ((0, 2), "U")


def test_values_that_json_lacks_are_sent_as_texts() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1.5, 3e38], dtype=np.float32)
    body, _ = encode_json({"NaN": array, "Infinity": np.array([1], dtype=np.int64)})

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    document = json.loads(body, parse_constant=refuse)
    assert document["inputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", 1.5, pytest.approx(3e38)]
    assert [tensor["name"] for tensor in document["inputs"]] == ["NaN", "Infinity"]
    np.testing.assert_array_equal(decode(json.dumps({"outputs": document["inputs"]}).encode(), {})["NaN"], array)


def test_empty_tensors_and_scalars_keep_their_shape() -> None:
    body, _ = encode_json({"none": np.zeros((0, 4), np.float32), "one": np.array(3.0)})
    back = decode(_echo(body), {})
    assert back["none"].shape == (0, 4)
    assert back["one"].shape == ()


def test_a_dtype_that_the_protocol_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no datatype for complex64"):
        encode_json({"z": np.zeros(2, np.complex64)})


SIZE = "inference-header-content-length"


def _binary_echo(arrays: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    """The answer of a server that returns its inputs as they came."""
    body, headers = encode_binary(arrays)
    size = int(headers["Inference-Header-Content-Length"])
    document = json.loads(body[:size])
    assert document["parameters"] == {"binary_data_output": True}
    head = json.dumps({"outputs": document["inputs"]}).encode()
    return head + body[size:], {SIZE: str(len(head))}


@pytest.mark.parametrize("dtype", [*sorted(DATATYPES), ">f4", ">i8"])
def test_raw_tensors_survive_a_round_trip(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    arrays = {"a": array, "one": np.array(3, dtype), "none": np.zeros((0, 4), dtype)}
    back = decode(*_binary_echo(arrays))
    for name, sent in arrays.items():
        assert (back[name].dtype, back[name].shape) == (sent.dtype.newbyteorder("="), sent.shape)
        np.testing.assert_array_equal(back[name], sent)


def test_raw_tensors_carry_what_json_cannot() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    texts = np.array([["", "schön"], ["\x00", "\U0001f680"]])
    back = decode(*_binary_echo({"a": array, "t": texts}))
    np.testing.assert_array_equal(back["a"], array)
    np.testing.assert_array_equal(back["t"], texts)


@pytest.mark.parametrize("change", [-1, 1, 10**6])
def test_raw_tensors_of_another_size_are_a_value_error(change: int) -> None:
    body, headers = _binary_echo({"a": np.ones(4, np.float32)})
    cut = body[:change] if change < 0 else body + b"x" * change
    with pytest.raises(ValueError, match="not an inference response"):
        decode(cut, headers)
    with pytest.raises(ValueError, match="not an inference response"):
        decode(body, {SIZE: str(int(headers[SIZE]) + change)})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"error": "no"}',
        b'{"outputs": 3}',
        b'{"outputs": [{"name": "a", "shape": [2], "datatype": "FP32", "data": [1]}]}',
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "FP8", "data": [1]}]}',
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "FP32", "parameters": 3, "data": [1]}]}',
        b'{"outputs": [3]}',
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "INT8", "data": [999]}]}',
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": [999]}]}',
    ],
)
def test_an_invalid_answer_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an inference response"):
        decode(body, {})
