"""Specs in a folder of their own, with the files that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.cli.diagnostics_text import render_text
from orchestrator.errors import SpecInvalid
from orchestrator.spec.load import LoadedSpec, load_spec

BASE = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata:
  name: digits
model:
  source:
    kind: pytorch
    weights: digits.safetensors
    factory: digits_model:DigitsNet
  inputs:
    - {name: image, dtype: float32, shape: [batch, 1, 8, 8]}
  outputs:
    - {name: logits, shape: [batch, 10]}
  dims: {batch: {min: 1, max: 64}}
"""

Load = Callable[..., LoadedSpec]
Shown = Callable[..., str]


@pytest.fixture
def base() -> str:
    return BASE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, which is also where commands run."""
    (tmp_path / "digits.safetensors").write_bytes(b"weights")
    (tmp_path / "digits.npz").write_bytes(b"samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Load:
    """Load a spec from its text."""

    def load(text: str | bytes, *, platform: Path | None = None, environment: str | None = None) -> LoadedSpec:
        (folder / "spec.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_spec("spec.yaml", platform=platform, environment=environment)

    return load


@pytest.fixture
def shown(load: Load) -> Shown:
    """What a user sees of a spec that is invalid."""

    def shown(text: str | bytes, *, platform: Path | None = None, environment: str | None = None) -> str:
        with pytest.raises(SpecInvalid) as caught:
            load(text, platform=platform, environment=environment)
        return render_text(caught.value.diagnostics, color=False, width=100)

    return shown
