"""Runs the command line as a process, in a project of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.store.home import Home
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.local.placement import LocalPlacement

ROOT = Path(__file__).resolve().parents[2]
Mlo = Callable[..., "subprocess.CompletedProcess[str]"]


def conforms(document: Any, name: str) -> None:
    """Assert that a document of `--json` follows its schema."""
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)


def store_with_digits(root: Path) -> Home:
    """A store that has deployed revision 1 of `digits` here, without its processes."""
    home = Home(root)
    home.prepare()
    deployment = Deployment(
        name="digits", placement=LocalPlacement().record(), revision=1, highest=1, backend="onnxruntime",
        variant="onnx-fp32", endpoint="http://127.0.0.1:8471", spec_file="/digits.yaml", spec_digest="01",
        decision_digest="02", model_digest="03", rendered_digest="04",
    )  # fmt: skip
    Store.at(home).state.update(lambda state: state.with_deployment(deployment))
    return home


def run_mlo(folder: Path, *arguments: str, code: int, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `mlo ARGUMENTS` in a folder, with exactly this environment; its exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the digits example without its demo."""
    for name in ("digits.yaml", "digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def mlo(project: Path) -> Mlo:
    """Run `mlo ARGUMENTS` there; returns the finished process, whose exit code must be `code`."""

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"MLO_HOME": str(project / "home"), "XDG_CACHE_HOME": f"{project}-cache"}
        return run_mlo(project, *arguments, code=code, env={**os.environ, **own, **env})

    return run
