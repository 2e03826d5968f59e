"""TorchServe's harmful defaults, each with the setting that replaces it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.torchserve.backend import TORCHSERVE
from orchestrator.backends.torchserve.config import checked_yaml, local_properties

SettingsFor = Callable[..., ServingSettings]


@pytest.fixture
def folder(settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path) -> Path:
    TORCHSERVE.write_folder(settings_for("torchserve", cpus=2.0), placeholder_variant, tmp_path / "serving")
    return tmp_path / "serving"


@pytest.fixture
def properties(folder: Path) -> dict[str, str]:
    return _read(folder / "config.properties")


def _read(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    assert len({key for key, _, _ in pairs}) == len(pairs), "a key stands there twice"
    return {key: value for key, _, value in pairs}


def _model_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((folder / "model-store/tiny-model/model-config.yaml").read_text())
    return config


def test_management_cannot_be_reached_from_outside(properties: dict[str, str]) -> None:
    assert properties["management_address"] == "http://127.0.0.1:8081"
    assert properties["grpc_management_address"] == "127.0.0.1"
    assert properties["grpc_inference_address"] == "127.0.0.1"
    assert properties["enable_model_api"] == "false"


def test_probes_and_clients_need_no_key_that_expires(properties: dict[str, str], folder: Path) -> None:
    assert properties["disable_token_authorization"] == "true"
    reasons = (folder / "config.properties").read_text().partition("disable_token_authorization")[0]
    assert "expire after an hour" in reasons


def test_models_only_come_from_the_folder(properties: dict[str, str]) -> None:
    assert properties["allowed_urls"] == "file://.*"
    assert properties["use_env_allowed_urls"] == "false"
    assert properties["enable_envvars_config"] == "false"
    assert properties["install_py_dep_per_model"] == "false"
    assert properties["load_models"] == "tiny-model"


def test_there_is_one_worker_on_every_host(properties: dict[str, str], folder: Path) -> None:
    config = _model_config(folder)
    assert properties["default_workers_per_model"] == "1"
    assert (config["minWorkers"], config["maxWorkers"]) == (1, 1)
    assert config["mlo"]["threads"] == 2
    assert properties["number_of_gpu"] == "0"
    assert config["deviceType"] == "cpu"


def test_metrics_can_be_scraped_and_start_no_processes(properties: dict[str, str]) -> None:
    assert properties["metrics_mode"] == "prometheus"
    assert properties["metrics_address"] == "http://0.0.0.0:8082"
    assert properties["disable_system_metrics"] == "true"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HF_TOKEN", "db_password", "MY_API_KEY"])
def test_workers_do_not_see_secrets(properties: dict[str, str], name: str) -> None:
    assert re.fullmatch(properties["blacklist_env_vars"], name)


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "MLO_THREADS", "TEMP", "TS_DECODE_INPUT_REQUEST", "HOME"])
def test_workers_see_what_they_need(properties: dict[str, str], name: str) -> None:
    assert not re.fullmatch(properties["blacklist_env_vars"], name)


def test_a_worker_that_crashes_repeatedly_is_soon_unhealthy(folder: Path) -> None:
    assert _model_config(folder)["maxRetryTimeoutInSec"] == 30


@pytest.mark.parametrize(("seconds", "milliseconds"), [(0.0, 1), (0.0004, 1), (0.005, 5), (0.0051, 6)])
def test_no_delay_becomes_the_default_of_100_ms(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path, seconds: float, milliseconds: int
) -> None:
    TORCHSERVE.write_folder(settings_for("torchserve", max_delay=seconds), placeholder_variant, tmp_path / "serving")
    assert _model_config(tmp_path / "serving")["maxBatchDelay"] == milliseconds


@pytest.mark.parametrize(
    ("key", "value"), [("batchSize", 0), ("batchSize", "8"), ("batchSize", True), ("batchsize", 8), ("deviceType", 1)]
)
def test_settings_that_torchserve_would_ignore_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"model-config\.yaml: .*{key}"):
        checked_yaml({key: value})


def test_the_model_needs_no_unpacking_and_has_no_time_in_it(folder: Path) -> None:
    model = folder / "model-store" / "tiny-model"
    manifest = json.loads((model / "MAR-INF" / "MANIFEST.json").read_text())
    assert manifest["createdOn"] == "-"
    assert manifest["model"]["modelName"] == "tiny-model"
    assert (model / manifest["model"]["handler"]).is_file()
    assert (model / manifest["model"]["configFile"]).is_file()
    assert (model / _model_config(folder)["mlo"]["file"]).read_bytes() == b"a model"


def test_the_handler_imports_nothing_from_this_project(folder: Path) -> None:
    source = (folder / "model-store/tiny-model/handler.py").read_text()
    assert not re.search(r"^\s*(from|import) orchestrator", source, re.MULTILINE)


def test_logs_go_to_standard_output_and_not_to_files(folder: Path) -> None:
    appenders = ET.parse(folder / "log4j2.xml").getroot().find("Appenders")
    assert appenders is not None
    assert [appender.tag for appender in appenders] == ["Console"]


def test_java_uses_the_cpus_of_the_spec_and_a_part_of_the_memory(folder: Path) -> None:
    options = (folder / "jvm.options").read_text().split()
    assert "-XX:ActiveProcessorCount=2" in options
    assert "-Xmx256m" in options
    assert "-XX:-UsePerfData" in options


def test_on_this_machine_only_inference_has_a_port_of_its_own(folder: Path) -> None:
    text = local_properties((folder / "config.properties").read_text(), 18080, "/short")
    path = folder / "local.properties"
    path.write_text(text)
    local = _read(path)
    assert local["inference_address"] == "http://127.0.0.1:18080"
    assert local["management_address"] == "unix:/short/management.sock"
    assert local["metrics_address"] == "unix:/short/metrics.sock"
    assert (local["grpc_inference_port"], local["grpc_management_port"]) == ("0", "0")
    assert "0.0.0.0" not in " ".join(local.values())
