"""The examples of TorchScript archives and of exported programs, from spec to answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SPECS = Path(__file__).resolve().parents[2] / "specs"


@pytest.fixture(scope="module")
def archives(mlo: Mlo) -> Path:
    for name in ("digits", "archives"):
        shutil.copytree(SPECS / name, mlo.folder / name)
    folder: Path = mlo.folder / "archives"
    subprocess.run([sys.executable, folder / "make.py"], check=True, timeout=120)
    return folder


@pytest.mark.parametrize(("kind", "name"), [("torchscript", "digits-script"), ("exported-program", "digits-program")])
def test_the_archive_is_served(mlo: Mlo, archives: Path, kind: str, name: str) -> None:
    path = archives / f"{kind}.yaml"
    text = path.read_text(encoding="utf-8").replace("200/s}", "200/s, enforce: false}")
    text = (
        text.replace("time_budget: 5m", "formats: [onnx]\n  time_budget: 30s")
        + "serving: {backend: onnxruntime, wire: json}\n"
    )
    path.write_text(text, encoding="utf-8")

    (deployment,) = mlo.json("apply", str(path), "--yes", "--json")["deployments"]

    fates = {candidate["candidate"]: candidate["fate"] for candidate in deployment["decision"]["candidates"]}
    assert not [fate for fate in fates.values() if "failed" in fate]
    samples = mlo.folder / "digits" / "digits.npz"
    answer = mlo.json("predict", name, "--input", str(samples), "--json")
    with np.load(samples) as file:
        right = np.asarray(answer["outputs"]["logits"]).argmax(axis=1) == file["labels"]
    assert right.mean() > 0.97
