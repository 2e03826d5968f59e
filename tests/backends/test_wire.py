"""Tensors go out as JSON of the protocol and come back as they were."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.wire import DATATYPES, decode_json, encode_json


def _echo(body: bytes) -> bytes:
    """The answer of a server that returns its inputs."""
    return json.dumps({"outputs": json.loads(body)["inputs"]}).encode()


@pytest.mark.parametrize("dtype", sorted(DATATYPES))
def test_every_dtype_survives_a_round_trip(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    body, headers = encode_json({"a": array})
    assert headers["Content-Type"] == "application/json"
    back = decode_json(_echo(body))["a"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_texts_survive_a_round_trip() -> None:
    array = np.array([["NaN", "", 'say "no"'], ["Infinity", "schön", "\x01\n\U0001f680"]])
    body, _ = encode_json({"a": array, "none": np.zeros((0, 2), np.str_)})
    assert json.loads(body)["inputs"][0]["datatype"] == "BYTES"
    back = decode_json(_echo(body))
    np.testing.assert_array_equal(back["a"], array)
    assert (back["none"].shape, back["none"].dtype.kind) == ((0, 2), "U")


def test_values_that_json_lacks_are_sent_in_valid_json() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1.5, 3e38], dtype=np.float32)
    body, _ = encode_json({"NaN": array, "Infinity": np.array([1], dtype=np.int64)})

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    document = json.loads(body, parse_constant=refuse)
    assert [tensor["name"] for tensor in document["inputs"]] == ["NaN", "Infinity"]
    np.testing.assert_array_equal(decode_json(json.dumps({"outputs": document["inputs"]}).encode())["NaN"], array)


def test_empty_tensors_and_scalars_keep_their_shape() -> None:
    body, _ = encode_json({"none": np.zeros((0, 4), np.float32), "one": np.array(3.0)})
    back = decode_json(_echo(body))
    assert back["none"].shape == (0, 4)
    assert back["one"].shape == ()


def test_a_dtype_that_the_protocol_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no datatype for complex64"):
        encode_json({"z": np.zeros(2, np.complex64)})


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
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "INT8", "data": [999]}]}',
        b'{"outputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": [999]}]}',
    ],
)
def test_an_invalid_answer_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="not an inference response"):
        decode_json(body)
