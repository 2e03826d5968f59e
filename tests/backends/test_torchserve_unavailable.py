"""Why TorchServe cannot be started here, and what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from orchestrator.backends.backend import Unavailable
from orchestrator.backends.torchserve.backend import TORCHSERVE


def _java(folder: Path, answer: str) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{answer}' >&2\n")
    program.chmod(0o755)


def test_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    newer = "install a Java runtime, version 17 or later"
    assert TORCHSERVE.unavailable() == Unavailable("java is not on the PATH", newer)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('openjdk version "11.0.2" 2019-01-15', "is Java 11"),
        ('java version "1.8.0_291"', "is Java 8"),
        ("nothing of use", "does not print its version"),
    ],
)
def test_with_an_unsuitable_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, told: str) -> None:
    _java(tmp_path, answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    reason = TORCHSERVE.unavailable()
    assert reason is not None
    assert told in reason.reason
    assert reason.remedy == "install a Java runtime, version 17 or later"


@pytest.mark.parametrize("answer", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19'])
def test_with_everything_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    _java(tmp_path, answer)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert TORCHSERVE.unavailable() is None


def test_a_runtime_that_states_its_version_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    _java(tmp_path / "bin", 'openjdk version "8"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "release").write_text('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\n')
    assert TORCHSERVE.unavailable() is None
    (tmp_path / "release").write_text('JAVA_VERSION="1.8.0_291"\n')
    assert TORCHSERVE.unavailable() is not None


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    reason = TORCHSERVE.unavailable()
    assert reason is not None
    assert reason.remedy == "pip install 'mlo[torchserve]'"
