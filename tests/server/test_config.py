"""server.json is read strictly: every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.server.config import load_config
from orchestrator.server.errors import StartError
from orchestrator.server.onnxruntime_session import provider_options
from tests.server.conftest import add_model, edit, signature


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": 0}, "threads must be an integer from 1 to 1024, not 0"),
        ({"threads": "2"}, "threads must be an integer from 1 to 1024, not '2'"),
        ({"instances": 2}, "instances (2) must not exceed threads (1)"),
        ({"speed": 1}, "speed is an unknown setting"),
        ({"batch_sizes": []}, "batch_sizes must be a list of integers from 1 to 65536"),
        ({"batch_sizes": [0]}, "batch_sizes must be a list of integers from 1 to 65536"),
        ({"tls": {"key": "k"}}, "tls.certificate is missing"),
        ({"traces": True}, "traces must be an object, not True"),
        ({"traces": {}}, "traces.endpoint is missing"),
        ({"traces": {"endpoint": "collector:4318"}}, "traces.endpoint must match"),
        ({"traces": {"endpoint": "http://collector:4318/"}}, "traces.endpoint must match"),
        ({"traces": {"endpoint": "http://collector:4318", "sample": 2}}, "traces.sample must be a number from 0 to 1"),
        ({"max_connections": 0}, "max_connections must be an integer from 1 to 1048576, not 0"),
        ({"model_files": {"../x": "0" * 64}}, "model.files must be a path inside the folder of server.json"),
        ({"model_files": {"x": "0"}}, "model.files.x must match"),
        ({"format": 3}, "format must be an integer from 2 to 2, not 3"),
        ({"drain_seconds": None}, "drain_seconds must be a number from 0 to 3600, not None"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, not 'loud'"),
        ({"provider": "gpu"}, "provider must match"),
        ({"provider": "CUDAExecutionProvider"}, "devices is missing; CUDAExecutionProvider needs one, such as [0]"),
        ({"devices": [0]}, "devices must not be set with CPUExecutionProvider"),
        (
            {"provider": "CUDAExecutionProvider", "devices": [0, 1], "instances": 2, "threads": 3},
            "instances of all devices (4) must not exceed threads (3)",
        ),
        ({"provider": "CUDAExecutionProvider", "devices": []}, "devices must be a list of distinct integers"),
        ({"provider": "CUDAExecutionProvider", "devices": [0, 0]}, "devices must be a list of distinct integers"),
        ({"provider": "CUDAExecutionProvider", "devices": [-1]}, "devices must be a list of distinct integers"),
        ({"cuda_graphs": True}, "cuda_graphs needs CUDAExecutionProvider"),
        ({"model": 1}, "model must be an object, not 1"),
        ({"cors_origins": ["https://a.example/"]}, "cors_origins must be a list of origins"),
        ({"cors_origins": []}, "cors_origins must be a list of origins"),
        ({"model_file": "../model.onnx"}, "model.file must be a path inside the folder of server.json"),
        ({"model_sha256": "0"}, "model.sha256 must match"),
        ({"model_labels": {}}, "model.labels.variant is missing"),
        ({"model_signature": {}}, "model.signature.dims is missing"),
        (
            {"model_signature": signature({"x": ("bfloat16", [1])}, {"y": ("float32", [1])}, {}, None)},
            "model.signature.inputs[0].dtype must be one of",
        ),
        (
            {"model_signature": signature({"x": ("float32", ["n"])}, {"y": ("float32", [1])}, {}, None)},
            "model.signature.dims lacks 'n', a dimension of input 'x'",
        ),
        (
            {"model_signature": signature({"x": ("float32", ["n"])}, {"y": ("float32", [1])}, {"n": [2, 1]}, "n")},
            "model.signature.dims.n must be [minimum, maximum], not [2, 1]",
        ),
        (
            {"model_signature": signature({"x": ("float32", [1])}, {"y": ("float32", [1])}, {}, "batch")},
            "model.signature.batch is 'batch', but it is not the first dimension of input 'x'",
        ),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    config = add_model(tmp_path)
    edit(config, **changes)
    with pytest.raises(StartError) as raised:
        load_config(config)
    assert raised.value.exit_code == 65
    assert str(config) in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"\x7fELF" * 100])
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    config = tmp_path / "server.json"
    config.write_bytes(content)
    with pytest.raises(StartError) as raised:
        load_config(config)
    assert raised.value.exit_code == 65


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match="cannot be read") as raised:
        load_config(tmp_path / name)
    assert raised.value.exit_code == 65


GRAPHS = {"provider": "CUDAExecutionProvider", "devices": [0], "cuda_graphs": True}


@pytest.mark.parametrize(
    ("inputs", "outputs", "dims", "reason"),
    [
        (["batch", "n"], ["batch", 2], {"batch": [1, 8], "n": [1, 5]}, "dimension 'n' of 'x' ranges from 1 to 5"),
        (["batch", 2], ["batch", "m"], {"batch": [1, 8]}, "dimension 'm' of 'y' has no range"),
        (["batch", 2], None, {"batch": [1, 8]}, "the shape of 'y' is unknown"),
    ],
)
def test_cuda_graphs_require_that_only_the_batch_size_varies(
    tmp_path: Path, inputs: list[Any], outputs: Any, dims: dict[str, list[int]], reason: str
) -> None:
    config = add_model(tmp_path)
    edit(config, model_signature=signature({"x": ("float32", inputs)}, {"y": ("float32", outputs)}, dims), **GRAPHS)
    with pytest.raises(StartError, match=f"cuda_graphs needs fixed shapes, but {reason}"):
        load_config(config)


def test_every_device_has_its_instances(tmp_path: Path) -> None:
    config = add_model(tmp_path, threads=8)
    assert load_config(config).sessions == (None,)
    edit(config, instances=2, **GRAPHS | {"devices": [0, 2]})
    loaded = load_config(config)
    assert loaded.sessions == (0, 2, 0, 2)
    assert loaded.cuda_graphs


def test_a_session_on_a_gpu_gets_its_device_and_computes_what_was_verified(tmp_path: Path) -> None:
    config = add_model(tmp_path, threads=2)
    assert provider_options(load_config(config), None) == {}
    edit(config, **GRAPHS | {"devices": [0, 3]})
    assert provider_options(load_config(config), 3) == {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "enable_cuda_graph": "1",
    }
