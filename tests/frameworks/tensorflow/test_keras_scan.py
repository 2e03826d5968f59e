"""HDF5 files are looked through once, however their links lead, and never without an end."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import pytest

from orchestrator.frameworks.tensorflow import keras_scan
from orchestrator.frameworks.tensorflow.keras_scan import check_keras_file
from orchestrator.steps.context import StepError

pytestmark = pytest.mark.frameworks

CONFIG = '{"class_name": "Sequential", "config": {"name": "m", "layers": []}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


def test_hard_links_that_lead_back_are_followed_once(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = CONFIG
        for name in ("one", "two"):
            file[name] = file["/"]
        inner = file.create_group("inner")
        inner["up"] = file["/"]
        inner["self"] = inner

    began = time.monotonic()
    check_keras_file(path)
    assert time.monotonic() - began < 5


def test_objects_behind_such_links_are_scanned_too(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = CONFIG
        file["back"] = file["/"]
        inner = file.create_group("inner")
        inner["back"] = file["/"]
        inner["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")

    with pytest.raises(StepError) as caught:
        check_keras_file(path)

    assert "is a link to another file" in caught.value.cause


def test_a_file_with_too_many_objects_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_scan, "_MOST_OBJECTS", 20)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = CONFIG
        for index in range(30):
            file.create_group(f"layer_{index}")

    with pytest.raises(StepError) as caught:
        check_keras_file(path)

    assert caught.value.code == "E302"
    assert "more than 20 groups and arrays" in caught.value.cause
