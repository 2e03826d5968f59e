"""JSON requests become checked arrays, or are refused with a sentence; no model is involved."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from orchestrator.server.errors import RequestError
from orchestrator.server.protocol import decode_json
from orchestrator.server.signature import Signature, Tensor


def one(dtype: str, shape: tuple[int | str, ...] = ("batch", 2)) -> Signature:
    return Signature(
        {"x": Tensor("x", dtype, shape)}, {"y": Tensor("y", dtype, shape)}, {"batch": (1, 4), "n": (0, 8)}, "batch"
    )


def decode(data: Any, dtype: str = "float32", shape: Any = (1, 2), **more: Any) -> Any:
    signature = one(dtype)
    tensor = {"name": "x", "datatype": signature.inputs["x"].datatype, "shape": list(shape), "data": data}
    return decode_json(json.dumps({"inputs": [tensor | more]}).encode(), signature).inputs["x"]


def refusal(body: bytes, signature: Signature | None = None) -> str:
    with pytest.raises(RequestError) as raised:
        decode_json(body, signature or one("float32"))
    assert raised.value.status == 400
    return raised.value.message


@pytest.mark.parametrize("data", [[1, 2.5], [[1, 2.5]]])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_may_be_flat_or_nested(dtype: str, data: Any) -> None:
    array = decode(data, dtype)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, np.array([[1, 2.5]], dtype))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_keep_their_extremes_and_nothing_beyond(dtype: str) -> None:
    limits = np.iinfo(dtype)
    assert decode([limits.min, limits.max], dtype).tolist() == [[limits.min, limits.max]]
    for wrong in (limits.max + 1, limits.min - 1, 0.5, "1", None):
        with pytest.raises(RequestError):
            decode([0, wrong], dtype)


@pytest.mark.parametrize("data", [[True, False], [1, 0]])
def test_booleans_may_be_words_or_digits(data: Any) -> None:
    assert decode(data, "bool").tolist() == [[True, False]]


def test_texts_stay_texts() -> None:
    assert decode([["ä", ""]], "string").tolist() == [["ä", ""]]


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("float32", ["1", "2"]),
        ("float32", ["nan", 1]),
        ("float32", [True, False]),
        ("float32", [1e39, 0]),
        ("float16", [70000, 0]),
        ("float32", [[1], [2, 3]]),
        ("float32", [[1], [2]]),
        ("float32", [1, 2, 3]),
        ("float32", []),
        ("float32", {}),
        ("float32", "ab"),
        ("float32", 1),
        ("int64", [1.5, 2.0]),
        ("bool", [2, 0]),
        ("bool", [0.0, 1.0]),
        ("string", [1, 2]),
        ("string", [["a"], ["b", "c"]]),
        ("uint64", [[1], [2, 3]]),
    ],
)
def test_data_of_another_kind_is_refused(dtype: str, data: Any) -> None:
    with pytest.raises(RequestError) as raised:
        decode(data, dtype)
    assert raised.value.status == 400
    assert "'x'" in raised.value.message


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([5, 2], "from 1 to 4, not 5"),
        ([0, 2], "from 1 to 4, not 0"),
        ([1, 3], "must be 2, not 3"),
        ([2], "2 dimensions [batch, 2]"),
        ([1, -2], "list of sizes"),
        ([1, 2.0], "list of sizes"),
        ([True, 2], "list of sizes"),
        ("12", "list of sizes"),
        (None, "list of sizes"),
        ([2**40, 2**40], "elements"),
        ([2**62, 0], "from 1 to 4"),
        ([1] * 65, "list of sizes"),
    ],
)
def test_a_shape_outside_the_signature_is_refused(shape: Any, says: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "data": [1, 2]}
    assert says in refusal(json.dumps({"inputs": [tensor]}).encode())


def test_dimensions_of_one_name_must_agree() -> None:
    shape: tuple[int | str, ...] = ("batch", "n")
    signature = Signature(
        {"a": Tensor("a", "int8", shape), "b": Tensor("b", "int8", shape)},
        {"y": Tensor("y", "int8", shape)},
        {"batch": (1, 4), "n": (0, 8)},
        "batch",
    )
    inputs = [
        {"name": "a", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]},
        {"name": "b", "datatype": "INT8", "shape": [1, 3], "data": [1, 2, 3]},
    ]
    assert "(n) is 3, but 2 in another" in refusal(json.dumps({"inputs": inputs}).encode(), signature)
    for item in inputs:
        item |= {"shape": [1, 0], "data": []}
    assert decode_json(json.dumps({"inputs": inputs}).encode(), signature).inputs["b"].shape == (1, 0)


X = '{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"inputs": [NaN]}', "not JSON"),
        ('{"inputs": [1e999]}', "not JSON"),
        ('{"inputs": ' + "[" * 5000, "not JSON"),
        ("{}", "inputs must be a list"),
        ('{"inputs": []}', "'x' is missing"),
        ('{"inputs": [1]}', "must be an object"),
        ('{"inputs": [{}]}', "no input None"),
        ('{"inputs": [{"name": ["x"]}]}', "no input"),
        ('{"inputs": [{"name": "q"}]}', "its inputs are 'x'"),
        (f'{{"inputs": [{X}, {X}]}}', "duplicate input"),
        (f'{{"inputs": [{X.replace("FP32", "FP64")}]}}', "must be 'FP32', not 'FP64'"),
        (f'{{"id": 1, "inputs": [{X}]}}', "id must be"),
        (f'{{"parameters": [], "inputs": [{X}]}}', "parameters must be an object"),
        (f'{{"parameters": {{"sequence_id": 7}}, "inputs": [{X}]}}', "'sequence_id' is not supported"),
        (f'{{"parameters": {{"timeout": -1}}, "inputs": [{X}]}}', "microseconds"),
        (f'{{"outputs": 1, "inputs": [{X}]}}', "outputs must be a list"),
        (f'{{"outputs": [1], "inputs": [{X}]}}', "must be an object"),
        (f'{{"outputs": [{{"name": "q"}}], "inputs": [{X}]}}', "its outputs are 'y'"),
        (f'{{"outputs": [{{"name": "y"}}, {{"name": "y"}}], "inputs": [{X}]}}', "duplicate output"),
        (f'{{"inputs": [{X[:-1]}, "parameters": {{"binary_data_size": 8}}}}]}}', "Inference-Header-Content-Length"),
    ],
)
def test_a_malformed_request_is_refused_with_what_is_wrong(body: str, says: str) -> None:
    assert says in refusal(body.encode())


def test_messages_stay_short_whatever_was_sent() -> None:
    assert len(refusal(json.dumps({"inputs": [{"name": "n" * 100_000}]}).encode())) < 300
    tensor = {"name": "x", "datatype": "FP32", "shape": [9] * 10_000, "data": []}
    assert len(refusal(json.dumps({"inputs": [tensor]}).encode())) < 300


def test_a_request_says_how_long_it_waits() -> None:
    body = f'{{"id": "i", "parameters": {{"timeout": 1500}}, "inputs": [{X}]}}'.encode()
    request = decode_json(body, one("float32"))
    assert (request.id, request.timeout_s, request.rows) == ("i", 0.0015, 1)
