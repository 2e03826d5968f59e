"""Calls and answers of TensorFlow Serving's REST API, as its `json_tensor.cc` reads and writes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.spec.signature import Signature, Tensor

_X = Tensor("x", "float32", ("batch", 2))


def _decode(outputs: Any, *tensors: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    body = outputs if isinstance(outputs, bytes) else json.dumps({"outputs": outputs}).encode()
    return TENSORFLOW_SERVING.decode(body, {}, Signature((_X,), tensors, {"batch": (1, 8)}, "batch"))


def test_each_tensor_is_sent_whole_by_its_name() -> None:
    body, headers = TENSORFLOW_SERVING.encode(
        {
            "a.b": np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32),
            "n": np.array([-128, 127], np.int8),
            "big": np.array(2**63 - 1, np.int64),
            "flag": np.array([True, False]),
            "text": np.array(["grüße", 'quote"']),
            "lone": np.array("x"),
        },
        "json",
    )
    assert headers == {"Content-Type": "application/json"}
    assert b"[[1.5, NaN], [Infinity, -Infinity]]" in body
    document = json.loads(body)
    assert document["signature_name"] == "serving_default"
    del document["inputs"]["a.b"]
    assert document["inputs"] == {
        "n": [-128, 127],
        "big": 2**63 - 1,
        "flag": [True, False],
        "text": ["grüße", 'quote"'],
        "lone": {"b64": "eA=="},
    }
    assert b"true" in body, "1 would not be taken for a bool"


@pytest.mark.parametrize("dtype", ["float16", "uint16", "complex64"])
def test_values_that_cannot_be_sent_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"input x: .* does not support {dtype}"):
        TENSORFLOW_SERVING.encode({"x": np.zeros(2, dtype)}, "json")


def test_floats_arrive_as_they_were() -> None:
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    x[0, :2] = [np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal]
    body, _ = TENSORFLOW_SERVING.encode({"x": x}, "json")
    np.testing.assert_array_equal(np.array(json.loads(body)["inputs"]["x"], np.float32), x)


def test_a_single_output_comes_without_its_name() -> None:
    (y,) = _decode([[1.0, 2.0]], Tensor("y", "float32", ("batch", 2))).values()
    assert y.dtype == np.float32
    assert y.tolist() == [[1.0, 2.0]]


def test_several_outputs_come_by_name_in_the_dtypes_of_the_signature() -> None:
    outputs = _decode(
        b'{\n "outputs": {"p": [[NaN, Infinity], [-Infinity, 1e-05]], "n": [1, -1], "b": [true, false], "s": 2.5}\n}',
        Tensor("n", "int16", ("batch",)),
        Tensor("p", "float64", ("batch", 2)),
        Tensor("b", "bool", ("batch",)),
        Tensor("s", "float32", ()),
    )
    assert list(outputs) == ["n", "p", "b", "s"]
    assert {name: array.dtype.name for name, array in outputs.items()} == {
        "n": "int16", "p": "float64", "b": "bool", "s": "float32",
    }  # fmt: skip
    np.testing.assert_array_equal(outputs["p"], [[np.nan, np.inf], [-np.inf, 1e-5]])
    assert outputs["s"].shape == ()


def test_texts_are_read_plain_and_in_base64() -> None:
    outputs = _decode(
        {"label": [["a", "grüße"]], "raw_bytes": [[{"b64": "Z3LDvMOfZQ=="}, {"b64": ""}]]},
        Tensor("label", "string", ("batch", 2)),
        Tensor("raw_bytes", "string", ("batch", 2)),
    )
    assert outputs["label"].tolist() == [["a", "grüße"]]
    assert outputs["raw_bytes"].tolist() == [["grüße", ""]]
    assert {array.dtype.kind for array in outputs.values()} == {"U"}


def test_an_answer_without_rows_keeps_its_shape() -> None:
    outputs = _decode(
        {"boxes": [], "n": []}, Tensor("boxes", "float32", ("found", 4)), Tensor("n", "int64", ("found",))
    )
    assert outputs["boxes"].shape == (0, 4)
    assert outputs["n"].shape == (0,)


def test_an_unknown_dtype_is_guessed() -> None:
    assert _decode([[1, 2]], Tensor("y", "", None))["y"].dtype.kind == "i"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not an answer"),
        (b"<html>", "not an answer"),
        (b"[]", "not an answer"),
        (b'{"error": "no"}', "not an answer of TensorFlow Serving: KeyError: 'outputs'"),
        (b'{"predictions": [1]}', "not an answer"),
        (b'{"outputs": [[1.0], [2.0, 3.0]]}', "output y: "),
        (b'{"outputs": [["a", "b"]]}', "output y: "),
        (b'{"outputs": {"y": [[1.0, 2.0]]}}', "output y: "),
        (b'{"outputs": "\xff"}', "not UTF-8; only outputs named ..._bytes may"),
    ],
)
def test_an_invalid_answer_is_reported(body: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _decode(body, Tensor("y", "float32", ("batch", 2)))


@pytest.mark.parametrize("outputs", [[[1.0]], {"y": [1.0]}, {"y": [1.0], "z": [1.0], "more": [1.0]}])
def test_unexpected_outputs_are_reported(outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"instead of \['y', 'z'\]"):
        _decode(outputs, Tensor("y", "float32", ("batch",)), Tensor("z", "float32", ("batch",)))


@pytest.mark.parametrize("value", [{"b64": "not base64!"}, {"b64": "/w=="}, {"b64": 1}, 5, None])
def test_invalid_texts_are_reported(value: Any) -> None:
    with pytest.raises(ValueError, match="output raw_bytes: "):
        _decode([value], Tensor("raw_bytes", "string", ("batch",)))
