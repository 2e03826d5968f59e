"""Conformance, as NVIDIA's client `tritonclient` sees it, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient import utils

from tests.server.conftest import EVERY_TYPE, Running, every_type_model, starting

pytestmark = [
    pytest.mark.frameworks,
    # gevent, below its HTTP client, patches nothing here but says so; its sockets are closed by its own pool.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Client = Callable[[], Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with starting() as start:
        yield start(every_type_model(tmp_path_factory.mktemp("every"), grpc_port=0))


@pytest.fixture(params=["http", "grpc"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(kind: str) -> Any:
    return httpclient if kind == "http" else grpcclient


@pytest.fixture
def client(server: Running, kind: str, module: Any) -> Iterator[Any]:
    port = server.port if kind == "http" else server.wait_for_log("live")["grpc_port"]
    with module.InferenceServerClient(f"127.0.0.1:{port}") as connected:
        yield connected


def array(dtype: str) -> Any:
    values = EVERY_TYPE[dtype][1]
    if dtype == "string":
        return np.array([text.encode() for text in values], dtype=object).reshape(2, 2)
    return np.array(values, dtype=dtype).reshape(2, 2)


def inputs(module: Any, **how: Any) -> list[Any]:
    made = []
    for dtype, (datatype, _) in EVERY_TYPE.items():
        tensor = module.InferInput(f"in_{dtype}", [2, 2], datatype)
        tensor.set_data_from_numpy(array(dtype), **how)
        made.append(tensor)
    return made


def check(result: Any, dtype: str) -> None:
    got = result.as_numpy(f"out_{dtype}")
    assert got.shape == (2, 2)
    assert (
        [x if isinstance(x, bytes) else x.encode() for x in got.flat] == list(array(dtype).flat)
        if (dtype == "string")
        else (got == array(dtype)).all()
    )
    if dtype != "string":
        assert got.dtype == np.dtype(dtype)


def test_the_server_and_the_model_are_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", "1")


def test_metadata_is_read(client: Any, kind: str) -> None:
    server, model = client.get_server_metadata(), client.get_model_metadata("m", "1")
    if kind == "grpc":
        assert server.name == "mlo"
        described = {t.name: (t.datatype, list(t.shape)) for t in (*model.inputs, *model.outputs)}
        versions = list(model.versions)
    else:
        assert server["name"] == "mlo"
        assert "binary_tensor_data" in server["extensions"]
        described = {t["name"]: (t["datatype"], t["shape"]) for t in (*model["inputs"], *model["outputs"])}
        versions = model["versions"]
    assert versions == ["1"]
    for dtype, (datatype, _) in EVERY_TYPE.items():
        assert described[f"in_{dtype}"] == (datatype, [-1, 2])
        assert described[f"out_{dtype}"] == (datatype, [-1, 2])


def test_every_type_goes_both_ways_in_binary(client: Any, module: Any) -> None:
    result = client.infer("m", inputs(module), model_version="1", request_id="r")
    for dtype in EVERY_TYPE:
        check(result, dtype)
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "r"


def test_every_type_goes_both_ways_in_json(server: Running) -> None:
    made = []
    for dtype, (datatype, _) in EVERY_TYPE.items():
        tensor = httpclient.InferInput(f"in_{dtype}", [2, 2], datatype)
        if dtype == "float16":  # the client writes it in binary only
            tensor.set_data_from_numpy(array(dtype))
        else:
            tensor.set_data_from_numpy(array(dtype), binary_data=False)
        made.append(tensor)
    outputs = [httpclient.InferRequestedOutput(f"out_{dtype}", binary_data=dtype == "float16") for dtype in EVERY_TYPE]
    with httpclient.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        result = client.infer("m", made, outputs=outputs)
    for dtype in EVERY_TYPE:
        check(result, dtype)


def test_only_the_requested_outputs_come(client: Any, module: Any) -> None:
    result = client.infer("m", inputs(module), outputs=[module.InferRequestedOutput("out_int8")])
    check(result, "int8")
    assert result.as_numpy("out_bool") is None


def test_parameters_and_a_time_limit_are_taken(client: Any, module: Any) -> None:
    result = client.infer("m", inputs(module), parameters={"mine": 1, "text": "x"}, timeout=10_000_000)
    check(result, "float32")


def test_an_unknown_model_and_a_wrong_shape_are_the_clients_exception(client: Any, module: Any) -> None:
    with pytest.raises(utils.InferenceServerException) as raised:
        client.infer("other", inputs(module))
    assert "'m'" in str(raised.value)
    wrong = inputs(module)
    wrong[0] = module.InferInput("in_bool", [1, 2], "BOOL")
    wrong[0].set_data_from_numpy(np.zeros((1, 2), bool))
    with pytest.raises(utils.InferenceServerException) as raised:
        client.infer("m", wrong)
    assert "in another input" in str(raised.value)


def test_many_calls_at_once_each_get_their_own_answer(server: Running) -> None:
    with httpclient.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        pending = [client.async_infer("m", inputs(httpclient), request_id=str(i)) for i in range(32)]
        results = [each.get_result() for each in pending]
    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(32)]
    for result in results:
        check(result, "uint64")
