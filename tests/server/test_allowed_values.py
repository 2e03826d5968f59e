"""Values and sizes that the spec does not allow: published, and refused where it asks for that, whatever the protocol."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.server.conftest import Answer, Running, Start, ends, signature, starting, write_server

pytestmark = pytest.mark.frameworks

_ALLOWED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ids": ("int64", "INT64", {"range": [0, 256], "values": None, "enforce": True}),
    "share": ("float32", "FP32", {"range": [0, 0.1], "values": None, "enforce": True}),
    "rate": ("int32", "INT32", {"range": None, "values": [8000, 16000], "enforce": True}),
    "side": ("string", "BYTES", {"range": None, "values": ["north", "south"], "enforce": True}),
    "free": ("float32", "FP32", {"range": [1, 2], "values": None, "enforce": False}),
}
_GOOD: dict[str, list[Any]] = {
    "ids": [0, 256],
    "share": [0, 0.1],
    "rate": [8000, 16000],
    "side": ["north", "south"],
    "free": [1000, -5],
}


def _model(folder: Path, **settings: Any) -> Path:
    """`out_X` = `X` over [batch, width], for inputs of all kinds; the width is 2 or 4."""
    shape: list[int | str] = ["batch", "width"]
    sig = signature(
        {name: (dtype, shape) for name, (dtype, _, _) in _ALLOWED.items()},
        {f"out_{name}": (dtype, shape) for name, (dtype, _, _) in _ALLOWED.items()},
        {"batch": [1, 8], "width": [2, 4]},
    )
    sig["multiples"] = {"width": 2}
    for tensor in sig["inputs"]:
        tensor["allowed"] = _ALLOWED[tensor["name"]][2]
    nodes = [helper.make_node("Identity", [name], [f"out_{name}"]) for name in _ALLOWED]
    return write_server(folder, nodes, sig, **settings)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        yield start(_model(tmp_path_factory.mktemp("allowed")))


def _document(changed: dict[str, list[Any]] | None = None, width: int = 2) -> dict[str, Any]:
    data = _GOOD | (changed or {})
    return {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [1, width], "data": data[name]}
            for name, (_, datatype, _) in _ALLOWED.items()
        ]
    }


WRONG = [
    ({"ids": [3, 257]}, "input 'ids': 257 at [0, 1] is not allowed; every value must be from 0 to 256"),
    ({"ids": [-1, 0]}, "input 'ids': -1 at [0, 0] is not allowed; every value must be from 0 to 256"),
    ({"share": [0.2, 0]}, "is not allowed; every value must be from 0 to 0.1"),
    ({"rate": [8000, 44100]}, "input 'rate': 44100 at [0, 1] is not allowed; every value must be one of 8000, 16000"),
    ({"side": ["north", "up"]}, "input 'side': 'up' at [0, 1] is not allowed; every value must be one of 'north', 'south'"),
]  # fmt: skip


def test_allowed_values_and_those_that_are_not_enforced_are_answered(server: Running) -> None:
    answer = server.infer(_document())
    assert answer.status == 200, answer.body
    assert answer.json["outputs"][0]["data"] == [0, 256]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_other_values_in_json_are_refused_with_the_input_and_what_is_allowed(
    server: Running, changed: dict[str, list[Any]], message: str
) -> None:
    answer = server.infer(_document(changed))
    assert answer.status == 400
    assert message in answer.json["error"]


def _binary(server: Running, ids: list[Any], share: list[Any]) -> Answer:
    """Numbers behind the header, texts in it; the second time, the header is known."""
    document = _document()
    tail = b""
    for tensor in document["inputs"]:
        code = {"ids": "q", "share": "f", "rate": "i", "free": "f"}.get(tensor["name"])
        if code is not None:
            values: list[Any] = {"ids": ids, "share": share}.get(tensor["name"], tensor["data"])
            raw = struct.pack(f"<2{code}", *values)
        else:
            raw = b"".join(struct.pack("<I", len(text)) + text.encode() for text in tensor["data"])
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(raw)}
        tail += raw
    head = json.dumps(document).encode()
    length = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return server.ask("POST", "/v2/models/m/infer", head + tail, length)


def test_other_values_in_binary_tensors_are_refused(server: Running) -> None:
    assert _binary(server, [1, 2], [0, 0.1]).status == 200
    wrong: list[tuple[list[Any], list[Any], str]] = [
        ([1, 300], [0, 0], "input 'ids': 300 at [0, 1]"),
        ([1, 2], [0, float("nan")], "input 'share': nan at [0, 1]"),
    ]
    for ids, share, message in wrong:
        answer = _binary(server, ids, share)
        assert answer.status == 400
        assert message in answer.json["error"]


def test_values_behind_a_known_header_are_refused(tmp_path: Path, start: Start) -> None:
    """The header of binary requests is parsed once; the values are looked at each time."""
    sig = signature({"x": ("int64", ["batch"])}, {"y": ("int64", ["batch"])}, {"batch": [1, 4]})
    sig["inputs"][0]["allowed"] = {"range": [0, 9], "enforce": True}
    server = start(write_server(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], sig))
    head = b'{"inputs":[{"name":"x","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}}]}'
    for value, status in ((1, 200), (9, 200), (10, 400), (2, 200), (-1, 400)):
        answer = server.ask(
            "POST",
            "/v2/models/m/infer",
            head + struct.pack("<q", value),
            {"Inference-Header-Content-Length": str(len(head))},
        )
        assert answer.status == status, answer.body


def test_other_values_over_grpc_are_refused(tmp_path: Path, start: Start) -> None:
    grpc = pytest.importorskip("grpc")
    from orchestrator.server import open_inference_pb2 as pb
    from tests.server.test_grpc import caller

    sig = signature({"x": ("int64", ["batch"])}, {"y": ("int64", ["batch"])}, {"batch": [1, 4]})
    sig["inputs"][0]["allowed"] = {"values": [3, 5], "enforce": True}
    channel, call = caller(
        start(write_server(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], sig, grpc_port=0))
    )
    with channel:
        for raw in (True, False):
            for value in (5, 4):
                contents = None if raw else pb.InferTensorContents(int64_contents=[value])
                tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1], contents=contents)
                request = pb.ModelInferRequest(
                    model_name="m", inputs=[tensor], raw_input_contents=[struct.pack("<q", value)] if raw else []
                )
                if value == 5:
                    call("ModelInfer", request, pb.ModelInferResponse)
                    continue
                with pytest.raises(grpc.RpcError) as refused:
                    call("ModelInfer", request, pb.ModelInferResponse)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "input 'x': 4 at [0] is not allowed; every value must be one of 3, 5" in refused.value.details()


def test_a_size_that_is_no_multiple_is_refused(server: Running) -> None:
    wide = {name: values * 2 for name, values in _GOOD.items()}
    assert server.infer(_document(wide, 4)).status == 200
    answer = server.infer(_document({name: values[:3] for name, values in wide.items()}, 3))
    assert answer.status == 400
    assert "dimension 1 (width) must be a multiple of 2, not 3" in answer.json["error"]


def test_metadata_says_what_is_allowed(server: Running) -> None:
    inputs = {tensor["name"]: tensor for tensor in server.ask("GET", "/v2/models/m").json["inputs"]}
    assert inputs["ids"]["parameters"] == {"range": [0, 256], "enforced": True}
    assert inputs["side"]["parameters"] == {"values": ["north", "south"], "enforced": True}
    assert inputs["free"]["parameters"] == {"range": [1, 2], "enforced": False}
    assert all("parameters" not in tensor for tensor in server.ask("GET", "/v2/models/m").json["outputs"])


def test_the_documents_say_what_is_allowed(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    infer = document["paths"]["/v2/models/m/infer"]["post"]
    body = infer["requestBody"]["content"]["application/json"]["schema"]
    inputs = {
        item["properties"]["name"]["const"]: item["properties"]
        for item in body["properties"]["inputs"]["items"]["anyOf"]
    }
    assert inputs["ids"]["data"]["items"] == {"type": "integer", "minimum": 0, "maximum": 256}
    assert inputs["rate"]["data"]["items"] == {"enum": [8000, 16000]}
    assert inputs["side"]["data"]["items"] == {"enum": ["north", "south"]}
    assert inputs["free"]["data"]["items"]["description"] == "The model is made for values from 1 to 2."
    assert inputs["ids"]["shape"]["prefixItems"][1] == {"type": "integer", "minimum": 2, "maximum": 4, "multipleOf": 2}
    page = server.ask("GET", "/docs").body.decode()
    assert "<li><code>width</code>: 2 to 4, a multiple of 2</li>" in page
    assert "<li><code>ids</code>: values from 0 to 256; others are refused</li>" in page
    assert "<li><code>rate</code>: values that are one of 8000, 16000; others are refused</li>" in page
    assert "<li><code>free</code>: values from 1 to 2</li>" in page


def test_a_model_that_fails_on_zero_is_warmed_up_with_what_is_allowed(tmp_path: Path, start: Start) -> None:
    """It takes the element at `at - 5` of two."""
    sig = signature({"at": ("int64", ["batch"])}, {"y": ("float32", ["batch"])}, {"batch": [1, 4]})
    sig["inputs"][0]["allowed"] = {"values": [5, 6], "enforce": False}
    constants = [
        helper.make_tensor("five", 7, [1], [5]),
        helper.make_tensor("two", 1, [2], [1.0, 2.0]),
    ]
    nodes = [helper.make_node("Sub", ["at", "five"], ["index"]), helper.make_node("Gather", ["two", "index"], ["y"])]
    server = start(write_server(tmp_path, nodes, sig, constants))
    assert server.wait_for_log("loaded")["warm_up_rows"]


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"enforce": True}, "model.signature.inputs[0].allowed must have either range or values"),
        ({"range": [2, 1], "enforce": True}, "model.signature.inputs[0].allowed.range must be [smallest, largest]"),
        ({"values": [], "enforce": True}, "model.signature.inputs[0].allowed.values must be a list of"),
        ({"range": [1, 2]}, "model.signature.inputs[0].allowed.enforce is missing"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, start: Start, allowed: dict[str, Any], message: str) -> None:
    sig = signature({"x": ("int64", ["batch"])}, {"y": ("int64", ["batch"])}, {"batch": [1, 4]})
    sig["inputs"][0]["allowed"] = allowed
    code, said = ends(start, write_server(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], sig))
    assert code == 65
    assert message in said
