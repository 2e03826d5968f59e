"""The folder that the ONNX Runtime server is started from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.onnxruntime.backend import ONNXRUNTIME
from orchestrator.backends.own_server import OwnServedModel, OwnServerJson
from orchestrator.server.config import ModelConfig, ServerConfig, load_config
from orchestrator.spec.signature import Signature, Tensor

SettingsFor = Callable[..., ServingSettings]


def test_the_server_takes_the_configuration(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "serving"
    ONNXRUNTIME.write_folder(settings_for("onnxruntime", cpus=2.5), placeholder_variant, folder)
    config = load_config(folder / "server.json")
    assert config.model.name == "tiny-model"
    assert config.model.sha256 == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert config.model.labels["decision_digest"] == "c" * 64
    assert (config.threads, config.max_batch_size, config.max_delay_us) == (2, 8, 5000)
    assert config.drain_seconds == 5


def test_the_server_is_warm_at_the_sizes_that_were_measured(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    settings = settings_for("onnxruntime", batch_sizes=(1, 4, 8, 32))
    ONNXRUNTIME.write_folder(settings, placeholder_variant, tmp_path / "serving")
    assert load_config(tmp_path / "serving" / "server.json").batch_sizes == (1, 4, 8)  # 8 rows go together at most


def test_weights_beside_the_graph_come_along(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    (placeholder_variant / "model.onnx.data").write_bytes(b"weights")
    ONNXRUNTIME.write_folder(settings_for("onnxruntime"), placeholder_variant, tmp_path / "serving")
    copied = tmp_path / "serving" / "model.onnx.data"
    assert copied.read_bytes() == b"weights"
    config = load_config(tmp_path / "serving" / "server.json")
    assert config.model.files == {copied: hashlib.sha256(b"weights").hexdigest()}


@pytest.mark.parametrize(("batch", "largest", "expected"), [("batch", 64, 8), ("batch", 4, 4), (None, 64, 1)])
def test_no_batch_is_larger_than_the_model_takes(
    settings_for: SettingsFor,
    placeholder_variant: Path,
    tmp_path: Path,
    batch: str | None,
    largest: int,
    expected: int,
) -> None:
    base = settings_for("onnxruntime")
    signature = replace(base.signature, batch=batch, dims={"batch": (1, largest)})
    ONNXRUNTIME.write_folder(replace(base, signature=signature), placeholder_variant, tmp_path / "serving")
    assert load_config(tmp_path / "serving" / "server.json").max_batch_size == expected


def test_the_largest_legal_request_fits(settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path) -> None:
    image = Tensor("image", "float32", ("batch", 3, 640, 640))
    signature = Signature((image,), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 16)}, "batch")
    ONNXRUNTIME.write_folder(settings_for("onnxruntime", signature=signature), placeholder_variant, tmp_path / "s")
    limit = json.loads((tmp_path / "s" / "server.json").read_text())["max_body_bytes"]
    assert limit > 16 * 3 * 640 * 640 * len("-0.12345678901234567, ")


def test_texts_of_a_page_fit(settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path) -> None:
    text = Tensor("text", "string", ("batch", 20))
    signature = Signature((text,), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 64)}, "batch")
    ONNXRUNTIME.write_folder(settings_for("onnxruntime", signature=signature), placeholder_variant, tmp_path / "s")
    limit = json.loads((tmp_path / "s" / "server.json").read_text())["max_body_bytes"]
    assert limit > 64 * 20 * 3000


def test_a_folder_may_have_every_setting_of_the_server() -> None:
    settings = {field.name for field in fields(ServerConfig)}
    assert set(OwnServerJson.model_fields) == {"format", *settings}
    model = {field.name for field in fields(ModelConfig)}
    assert set(OwnServedModel.model_fields) == model
