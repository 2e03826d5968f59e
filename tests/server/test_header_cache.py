"""A request whose JSON header is cached is read like the first one, for all tensors and chunks."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.server.binary import decode_binary
from orchestrator.server.errors import RequestError
from orchestrator.server.header_cache import HeaderCache
from orchestrator.server.request import InferRequest
from orchestrator.server.signature import Signature, Tensor

SIGNATURE = Signature(
    {name: Tensor(name, dtype, ("batch", 2)) for name, dtype in (("x", "float32"), ("b", "bool"), ("t", "string"))},
    {"y": Tensor("y", "float32", ("batch", 2))},
    {"batch": (1, 4)},
    "batch",
)
NUMBERS = Signature({k: v for k, v in SIGNATURE.inputs.items() if k != "t"}, SIGNATURE.outputs, SIGNATURE.dims, "batch")
X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
B = {"name": "b", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}


def head(*inputs: Any, **more: Any) -> bytes:
    return json.dumps(
        {"inputs": list(inputs), "parameters": {"binary_data_output": True, "timeout": 5}} | more
    ).encode()


def same(one: InferRequest, other: InferRequest) -> None:
    assert list(one.inputs) == list(other.inputs)
    for name, array in one.inputs.items():
        assert (array.dtype, array.shape) == (other.inputs[name].dtype, other.inputs[name].shape)
        np.testing.assert_array_equal(array, other.inputs[name])
        assert array.flags.aligned
    assert one._replace(inputs={}) == other._replace(inputs={})


@pytest.mark.parametrize("more", [{}, {"id": "7"}, {"id": ""}, {"outputs": [{"name": "y"}]}])
@pytest.mark.parametrize("inputs", [(X, B), (B, X)])
def test_every_repetition_is_read_as_the_first(inputs: Any, more: Any) -> None:
    cache, header = HeaderCache(NUMBERS), head(*inputs, **more)
    for number in range(4):
        parts = {"x": struct.pack("<2f", number, float("nan")), "b": bytes([number % 2, 7])}
        body = header + b"".join(parts[each["name"]] for each in inputs)
        same(cache.decode(body, len(header)), decode_binary(body, len(header), NUMBERS))
        same(cache.decode(bytearray(body), len(header)), decode_binary(body, len(header), NUMBERS))


@given(tail=st.binary(max_size=24), cut=st.integers(0, 400))
def test_a_repeated_invalid_request_is_refused_with_the_same_message(tail: bytes, cut: int) -> None:
    cache, header = HeaderCache(NUMBERS), head(X, B)
    cache.decode(header + bytes(10), len(header))
    for length in (len(header), cut):
        answers: list[bytes | str] = []
        for decode in (cache.decode, lambda body, size: decode_binary(body, size, NUMBERS)):
            try:
                answers.append(decode(header + tail, length).inputs["x"].tobytes())
            except RequestError as error:
                answers.append(error.message)
        assert answers[0] == answers[1]


def test_texts_and_data_in_json_are_not_cached() -> None:
    cache = HeaderCache(SIGNATURE)
    text = {"name": "t", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 9}}
    header = head(X, {**B, "parameters": None, "data": [True, False]}, text)
    for texts in (("a", ""), ("", "b")):
        raw = b"".join(struct.pack("<I", len(each)) + each.encode() for each in texts)
        assert cache.decode(header + bytes(8) + raw, len(header)).inputs["t"].tolist() == [list(texts)]
    with pytest.raises(RequestError, match="needs 2 elements, not 1"):
        cache.decode(header + bytes(8) + struct.pack("<I", 5) + b"abcde", len(header))


def test_no_more_than_a_few_are_kept() -> None:
    cache = HeaderCache(NUMBERS)
    for number in range(1000):
        header = head(X, B, parameters={"note": number})
        cache.decode(header + bytes(10), len(header))
    long_header = head(X, B, parameters={"note": "n" * 5000})
    cache.decode(long_header + bytes(10), len(long_header))
    assert len(cache._headers) <= 64
    assert long_header not in cache._headers
