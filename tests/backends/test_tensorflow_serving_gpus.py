"""TensorFlow Serving for a GPU: which image is taken, and how its container is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.found import local_image
from orchestrator.backends.tensorflow_serving.start import container_command

SettingsFor = Callable[..., ServingSettings]

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def folder(settings_for: SettingsFor, variant: Path, made: Path, devices: int) -> Path:
    TENSORFLOW_SERVING.write_folder(settings_for("tensorflow-serving", devices=devices), variant, made)
    return made


def options(folder: Path) -> list[str]:
    argv = container_command("an-image", folder, 18501, 3)
    return argv[: argv.index("an-image")]


def test_its_container_gets_the_gpu_and_takes_its_memory_as_it_needs_it(
    settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    given = options(folder(settings_for, placeholder_variant, tmp_path / "serving", 1))
    assert "--gpus=1" in given
    assert {f"--env={name}={value}" for name, value in ENVIRONMENT.items()} <= set(given)


def test_a_container_for_cpus_gets_none(settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path) -> None:
    given = options(folder(settings_for, placeholder_variant, tmp_path / "serving", 0))
    assert not [option for option in given if "gpu" in option.lower()]


def test_the_program_itself_takes_memory_as_it_needs_it(tmp_path: Path) -> None:
    launch = TENSORFLOW_SERVING.launch(tmp_path, port=18501, scratch=tmp_path, threads=1)
    assert launch.env.items() >= ENVIRONMENT.items()


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        ("tensorflow/serving:2.20.0\ntensorflow/serving:2.20.0-devel-gpu", None),
        ("tensorflow/serving:latest-gpu\ntensorflow/serving:2.20.0-gpu", "tensorflow/serving:2.20.0-gpu"),
        ("tensorflow/serving:2.20.0\ntensorflow/serving:latest-gpu", "tensorflow/serving:latest-gpu"),
    ],
)
def test_for_a_gpu_an_image_for_gpus_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, chosen: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "docker").write_text(f"#!/bin/sh\nprintf '%s\\n' \"{images}\"\n")
    (tmp_path / "docker").chmod(0o755)
    assert local_image(1) == chosen
    told = TENSORFLOW_SERVING.unavailable(1)
    assert (told is None) == (chosen is not None)
    assert told is None or told.endswith("run: docker pull tensorflow/serving:2.20.0-gpu")
