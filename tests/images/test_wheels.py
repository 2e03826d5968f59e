"""Hashes of wheels, from a folder and from an index that is not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import WheelsMissing, hashes_in_folder, hashes_in_index


def test_wheels_of_a_folder_are_found_by_name_and_version(tmp_path: Path) -> None:
    files = {
        "prometheus_client-0.26.0-py3-none-any.whl": b"a",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl": b"b",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl": b"c",
        "numpy-2.4.5-cp311-cp311-manylinux_2_27_x86_64.whl": b"d",
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": b"e",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pins = ["numpy==2.4.6", "prometheus-client==0.26.0", "torch==2.13.0+cpu", "uvloop==0.23.0"]
    sha256 = {content: hashlib.sha256(content).hexdigest() for content in files.values()}
    assert hashes_in_folder(pins, tmp_path) == {
        "numpy==2.4.6": tuple(sorted((sha256[b"b"], sha256[b"c"]))),
        "prometheus-client==0.26.0": (sha256[b"a"],),
        "torch==2.13.0+cpu": (sha256[b"e"],),
        "uvloop==0.23.0": (),
    }


@pytest.mark.processes
def test_an_index_that_does_not_answer_is_a_reason_and_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = BuildSettings("digits", pip_index="http://reader:a-secret@127.0.0.1:9/simple")
    with pytest.raises(WheelsMissing) as missing:
        hashes_in_index(["packaging==26.3"], settings, "linux/amd64")
    assert str(missing.value) == "the package index does not answer"
    assert missing.value.pin == ""
