"""server.json is read strictly: every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.server.config import load_config
from orchestrator.server.errors import StartError
from tests.server.conftest import add_model, edit, signature


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threads": 0}, "threads must be a whole number from 1 to 1024, not 0"),
        ({"threads": "2"}, "threads must be a whole number from 1 to 1024, not '2'"),
        ({"instances": 2}, "instances (2) must not be more than threads (1)"),
        ({"speed": 1}, "speed is not a setting"),
        ({"batch_sizes": []}, "batch_sizes must be a list of whole numbers from 1 to 65536"),
        ({"batch_sizes": [0]}, "batch_sizes must be a list of whole numbers from 1 to 65536"),
        ({"tls": {"key": "k"}}, "tls.certificate is missing"),
        ({"traces": 1}, "traces must be true or false, not 1"),
        ({"max_connections": 0}, "max_connections must be a whole number from 1 to 1048576, not 0"),
        ({"model_files": {"../x": "0" * 64}}, "model.files must be a path below server.json's folder"),
        ({"model_files": {"x": "0"}}, "model.files.x must match"),
        ({"format": 2}, "format must be a whole number from 1 to 1, not 2"),
        ({"drain_seconds": None}, "drain_seconds must be a number from 0 to 3600, not None"),
        ({"log_level": "loud"}, "log_level must be one of debug, info, warning, error, not 'loud'"),
        ({"provider": "gpu"}, "provider must match"),
        ({"model": 1}, "model must be an object, not 1"),
        ({"model_file": "../model.onnx"}, "model.file must be a path below server.json's folder"),
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
            "model.signature.dims.n must be [smallest, largest], not [2, 1]",
        ),
        (
            {"model_signature": signature({"x": ("float32", [1])}, {"y": ("float32", [1])}, {}, "batch")},
            "model.signature.batch is 'batch', but input 'x' does not begin with it",
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
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
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
