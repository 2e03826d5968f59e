"""Templates and charts are found in a checkout and in a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator.render.assets import assets_dir

_ROOT = Path(__file__).parents[2]


def test_a_checkout_uses_its_own_folders() -> None:
    assert assets_dir("templates") == _ROOT / "templates"
    assert assets_dir("charts") == _ROOT / "charts"


@pytest.mark.e2e
def test_a_wheel_carries_every_one_of_them(tmp_path: Path) -> None:
    # From a copy: a build leaves folders beside the sources, and would take in what a former one left there.
    sources = tmp_path / "sources"
    for name in ("orchestrator", "templates", "charts"):
        shutil.copytree(_ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        if (_ROOT / name).exists():
            shutil.copyfile(_ROOT / name, sources / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(sources)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"orchestrator/_assets/{path.relative_to(_ROOT)}"
        for kind in ("templates", "charts")
        for path in (_ROOT / kind).rglob("*")
        if path.is_file()
    }
    assert expected
    assert expected <= names
