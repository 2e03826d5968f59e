"""TensorFlow Serving for a GPU: which image is taken, and how its container is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.local import container_options, local_image
from tests.fake_engine import fake_engine

SettingsFor = Callable[..., ServingSettings]

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def folder(settings_for: SettingsFor, variant: Path, made: Path, devices: int) -> Path:
    TENSORFLOW_SERVING.write_folder(settings_for("tensorflow-serving", devices=devices), variant, made)
    return made


def test_its_container_gets_the_gpu_and_allocates_memory_as_needed(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    given = container_options(folder(settings_for, placeholder_variant, tmp_path / "serving", 1), 18501, 3)
    (request,) = given["device_requests"]
    assert (request["Count"], request["Capabilities"]) == (1, [["gpu"]])
    assert given["environment"] == ENVIRONMENT


def test_a_container_for_cpus_gets_none(settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path) -> None:
    given = container_options(folder(settings_for, placeholder_variant, tmp_path / "serving", 0), 18501, 3)
    assert given["device_requests"] == []
    assert given["environment"] == {}


def test_the_program_allocates_memory_as_needed(tmp_path: Path) -> None:
    launch = TENSORFLOW_SERVING.launch(tmp_path, port=18501, scratch=tmp_path, threads=1)
    assert launch.env.items() >= ENVIRONMENT.items()


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        (["tensorflow/serving:2.20.0", "tensorflow/serving:2.20.0-devel-gpu"], None),
        (["tensorflow/serving:latest-gpu", "tensorflow/serving:2.20.0-gpu"], "tensorflow/serving:2.20.0-gpu"),
        (["tensorflow/serving:2.20.0", "tensorflow/serving:latest-gpu"], "tensorflow/serving:latest-gpu"),
    ],
)
def test_for_a_gpu_an_image_for_gpus_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[str], chosen: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with fake_engine() as engine:
        engine.images = dict.fromkeys(images, "sha256:12ab")
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        assert local_image(1) == chosen
        told = TENSORFLOW_SERVING.unavailable(1)
    assert (told is None) == (chosen is not None)
    assert told is None or told.remedy == "docker pull tensorflow/serving:2.20.0-gpu"
