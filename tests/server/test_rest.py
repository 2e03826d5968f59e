"""The Open Inference Protocol v2 over HTTP, against the real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from orchestrator.backends.own_metrics import OWN_METRICS
from orchestrator.backends.wire import decode, encode_binary, encode_json
from tests.backends.exposed import missing_metrics
from tests.server.conftest import LABELS, Running, Start, add_model, signature, starting, write_server

pytestmark = pytest.mark.frameworks

X = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}
Y = {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [[0.5, 0.5, 0.5], [1, 1, 1]]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """z = x + y, for every test that leaves the server as it is."""
    with starting() as start:
        yield start(add_model(tmp_path_factory.mktemp("add")))


def test_metadata_names_server_model_and_tensors(server: Running) -> None:
    assert server.ask("GET", "/v2").json["extensions"] == ["binary_tensor_data"]
    metadata = server.ask("GET", "/v2/models/m").json
    assert metadata == {
        "name": "m",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in "xy"],
        "outputs": [{"name": "z", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert server.ask("GET", "/v2/models/m/versions/1").json == metadata


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/1/ready"]
)
def test_health_is_reported(server: Running, path: str) -> None:
    assert server.ask("GET", path).status == 200
    head = server.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/versions/1/infer"])
def test_an_inference_is_answered(server: Running, path: str) -> None:
    answer = server.ask("POST", path, json.dumps({"id": "a", "inputs": [X, Y]}))
    assert answer.json == {
        "id": "a",
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "z", "datatype": "FP32", "shape": [2, 3], "data": [1.5, 2.5, 3.5, 5, 6, 7]}],
    }
    assert answer.headers["content-type"] == "application/json"


def test_raw_tensors_go_both_ways(server: Running) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = [
        {"name": name, "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}} for name in "xy"
    ]
    head = json.dumps({"inputs": tensors, "outputs": [{"name": "z", "parameters": {"binary_data": True}}]}).encode()
    answer = server.ask(
        "POST",
        "/v2/models/m/infer",
        head + x.tobytes() * 2,
        {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 24}
    np.testing.assert_array_equal(np.frombuffer(answer.body[length:], np.float32).reshape(2, 3), x * 2)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/m/versions/2/infer", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("POST", "/v2/health/ready", 405),
        ("DELETE", "/v2/models/m", 405),
    ],
)
def test_paths_and_methods_that_are_not_there_say_so(server: Running, method: str, path: str, status: int) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    assert answer.json["error"]
    assert ("allow" in answer.headers) == (status == 405)


def test_a_refused_request_says_why_and_is_logged_with_its_ids(server: Running) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = server.infer({"inputs": [X]}, headers={"X-Request-Id": "r-1", "traceparent": trace})
    assert (answer.status, answer.json) == (400, {"error": "input 'y' is missing"})
    assert answer.headers["x-request-id"] == "r-1"
    line = server.wait_for_log("input 'y' is missing")
    assert (line["request_id"], line["traceparent"], line["status"]) == ("r-1", trace, 400)


def test_metrics_show_requests_stages_batches_and_the_origin_of_the_model(server: Running) -> None:
    server.infer({"inputs": [X, Y]})
    page = server.ask("GET", "/metrics").body.decode()
    assert 'mlo_requests_total{code="200",protocol="http"}' in page
    for stage in ("read", "decode", "queue", "run", "encode", "total"):
        assert f'mlo_request_seconds_count{{stage="{stage}"}}' in page
    assert 'mlo_batch_rows_bucket{le="2.0"}' in page
    assert f'decision_digest="{LABELS["decision_digest"]}"' in page
    assert "mlo_ready 1.0" in page
    assert "mlo_queue_rows 0.0" in page


def test_the_openapi_document_and_the_page_need_nothing_from_outside(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.")
    for path in document["paths"]:
        assert server.ask("GET", path).status in {200, 405}
    page = server.ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert b"http://" not in page.body.replace(b"http://HOST", b"")
    assert b"https://" not in page.body


def test_a_model_with_several_inputs_of_other_types_and_requested_outputs(tmp_path: Path, start: Start) -> None:
    sig = signature(
        {"ids": ("int64", ["batch", "n"]), "keep": ("bool", ["batch", "n"])},
        {"kept": ("int64", ["batch", "n"]), "negated": ("int64", ["batch", "n"])},
        {"batch": [1, 4], "n": [1, 16]},
    )
    zero = numpy_helper.from_array(np.int64(0), "zero")
    nodes = [
        helper.make_node("Where", ["keep", "ids", "zero"], ["kept"]),
        helper.make_node("Neg", ["ids"], ["negated"]),
    ]
    server = start(write_server(tmp_path, nodes, sig, [zero]))
    inputs = [
        {"name": "keep", "datatype": "BOOL", "shape": [1, 2], "data": [True, False]},
        {"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [7, 2**53 + 1]},
    ]
    both = server.infer({"inputs": inputs}).json["outputs"]
    assert [(o["name"], o["data"]) for o in both] == [("kept", [7, 0]), ("negated", [-7, -(2**53) - 1])]
    one = server.infer({"inputs": inputs, "outputs": [{"name": "negated"}]}).json["outputs"]
    assert [o["name"] for o in one] == ["negated"]


def test_state_is_an_input_and_an_output(tmp_path: Path, start: Start) -> None:
    sig = signature(
        {"x": ("float32", [2, "batch", 3]), "state": ("float32", [1, "batch", 3])},
        {"y": ("float32", [2, "batch", 3]), "next": ("float32", [1, "batch", 3])},
        {"batch": [1, 4]},
        batch=None,  # it is there, but not as the first dimension: requests are not joined
    )
    nodes = [helper.make_node("Add", ["x", "state"], ["y"]), helper.make_node("Neg", ["state"], ["next"])]
    server = start(write_server(tmp_path, nodes, sig))
    state = {"name": "state", "datatype": "FP32", "shape": [1, 2, 3], "data": [1.0] * 6}
    x = {"name": "x", "datatype": "FP32", "shape": [2, 2, 3], "data": [5.0] * 12}
    for turn in range(4):
        y, state = server.infer({"inputs": [x, {**state, "name": "state"}]}).json["outputs"]
        assert y["data"] == [5 + (-1) ** turn] * 12
    wrong = {"name": "state", "datatype": "FP32", "shape": [1, 3, 3], "data": [1.0] * 9}
    assert server.infer({"inputs": [x, wrong]}).status == 400


def test_requests_to_several_instances_each_get_their_own_answer(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, threads=2, instances=2, max_delay_us=1000))

    def ask(number: int) -> Any:
        rows = number % 3 + 1
        tensors = [
            {"name": name, "datatype": "FP32", "shape": [rows, 3], "data": [float(number)] * 3 * rows} for name in "xy"
        ]
        return server.infer({"inputs": tensors}).json["outputs"][0]["data"]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(200)))
    assert answers == [[2 * number] * 3 * (number % 3 + 1) for number in range(200)]
    page = server.ask("GET", "/metrics").body.decode()
    calls = int(float(page.split("mlo_batch_rows_count ")[1].split()[0]))
    assert calls < 200  # some went together


def test_texts_go_through(tmp_path: Path, start: Start) -> None:
    sig = signature({"t": ("string", ["batch"])}, {"u": ("string", ["batch"])}, {"batch": [1, 4]})
    server = start(write_server(tmp_path, [helper.make_node("Identity", ["t"], ["u"])], sig))
    answer = server.infer({"inputs": [{"name": "t", "datatype": "BYTES", "shape": [2], "data": ["ä", ""]}]})
    assert answer.json["outputs"] == [{"name": "u", "datatype": "BYTES", "shape": [2], "data": ["ä", ""]}]


def test_a_model_without_a_batch_dimension_is_served(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float16", [2])}, {"y": ("float16", [2])}, {}, batch=None)
    server = start(write_server(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], sig))
    answer = server.infer({"inputs": [{"name": "x", "datatype": "FP16", "shape": [2], "data": [1.5, -2]}]})
    assert answer.json["outputs"][0]["data"] == [-1.5, 2]


def scaling_model(folder: Path, **settings: Any) -> Path:
    """y = x * gain + step, with two inputs that are single numbers, and s, the sum of y."""
    sig = signature(
        {"x": ("float32", ["n", 2]), "gain": ("float32", []), "step": ("int64", [])},
        {"y": ("float32", ["n", 2]), "s": ("float32", [])},
        {"n": [1, 4]},
        batch=None,
    )
    nodes = [
        helper.make_node("Mul", ["x", "gain"], ["scaled"]),
        helper.make_node("Cast", ["step"], ["shift"], to=1),
        helper.make_node("Add", ["scaled", "shift"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["s"], keepdims=0),
    ]
    return write_server(folder, nodes, sig, **settings)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("encode", [encode_json, encode_binary])
def test_single_numbers_have_no_dimensions(tmp_path: Path, start: Start, runtime: str, encode: Any) -> None:
    server = start(scaling_model(tmp_path, runtime=runtime))
    inputs = {"x": np.array([[1, 2]], np.float32), "gain": np.array(2.5, np.float32), "step": np.array(1)}

    for _ in range(2):  # what is kept of the first request is used for the second
        body, headers = encode(inputs)
        answer = server.ask("POST", "/v2/models/m/infer", body, headers)
        assert answer.status == 200, answer.body
        found = decode(answer.body, {name.lower(): value for name, value in answer.headers.items()})
        assert {name: (array.shape, array.tolist()) for name, array in found.items()} == {
            "y": ((1, 2), [[3.5, 6.0]]),
            "s": ((), 9.5),
        }


def test_an_output_without_rows_is_served_request_by_request(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float32", ["batch", 2])}, {"s": ("float32", [])}, {"batch": [1, 4]})
    server = start(write_server(tmp_path, [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)], sig))
    answer = server.infer({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}]})
    assert answer.json["outputs"] == [{"name": "s", "datatype": "FP32", "shape": [], "data": [10]}]


def test_values_that_the_model_refuses_are_the_clients_fault(tmp_path: Path, start: Start) -> None:
    table = numpy_helper.from_array(np.eye(3, dtype=np.float32), "table")
    sig = signature({"i": ("int64", ["batch"])}, {"row": ("float32", ["batch", 3])}, {"batch": [1, 4]})
    server = start(write_server(tmp_path, [helper.make_node("Gather", ["table", "i"], ["row"])], sig, [table]))

    def ask(index: int) -> Any:
        return server.infer({"inputs": [{"name": "i", "datatype": "INT64", "shape": [1], "data": [index]}]})

    assert ask(2).json["outputs"][0]["data"] == [0, 0, 1]
    refused = ask(7)
    assert refused.status == 400
    assert "out of data bounds" in refused.json["error"]
    assert ask(0).status == 200


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_that_are_not_finite_go_both_ways_as_texts(tmp_path: Path, start: Start, dtype: str) -> None:
    sig = signature({"x": (dtype, ["batch", 2])}, {"y": (dtype, ["batch", 2])}, {"batch": [1, 4]})
    server = start(write_server(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], sig))
    datatype = f"FP{dtype[5:]}"

    def ask(data: list[Any]) -> Any:
        return server.infer({"inputs": [{"name": "x", "datatype": datatype, "shape": [3, 2], "data": data}]})

    there = ["NaN", "Infinity", "-Infinity", 1.5, None, 2]
    assert ask(there).json["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", 1.5, "NaN", 2]
    nested = [there[:2], there[2:4], there[4:]]
    assert ask(nested).json["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", 1.5, "NaN", 2]
    refused: list[Any] = ["nan", "1", True, {}, [1]]
    for wrong in refused:
        answer = ask([wrong, *there[1:]])
        assert answer.status == 400, wrong


def test_a_word_is_not_an_integer(server: Running) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ["one", 1, 2]}
    answer = server.infer({"inputs": [tensor, {**tensor, "name": "y"}]})
    assert answer.status == 400
    assert '"NaN", "Infinity" and "-Infinity"' in answer.json["error"]


def test_a_shape_that_the_signature_does_not_know_is_answered(tmp_path: Path, start: Start) -> None:
    sig = signature({"x": ("float32", ["batch", 2])}, {"i": ("int64", [2, "found"])}, {"batch": [1, 4]})
    server = start(write_server(tmp_path, [helper.make_node("NonZero", ["x"], ["i"])], sig))
    answer = server.infer({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 5]}]})
    assert answer.json["outputs"] == [{"name": "i", "datatype": "INT64", "shape": [2, 1], "data": [0, 1]}]


def test_every_metric_of_the_dashboard_and_the_alerts_is_exposed(server: Running) -> None:
    server.infer({"inputs": [X, Y]})
    server.infer({"inputs": [X]})
    assert missing_metrics(OWN_METRICS, server.ask("GET", "/metrics").body.decode()) == set()


def test_alerts_know_the_bounds_of_the_latencies(server: Running) -> None:
    page = server.ask("GET", "/metrics").body.decode()
    bounds = re.findall(r'mlo_request_seconds_bucket\{le="([0-9.e-]+)",stage="total"\}', page)
    assert tuple(map(float, bounds)) == OWN_METRICS.bounds
