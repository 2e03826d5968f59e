"""The digits example served by the real TorchServe, where Java 17 and the package are there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from orchestrator.backends.table import serving_backend

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SPECS = Path(__file__).resolve().parents[2] / "specs"
MISSING = serving_backend("torchserve").unavailable()


@pytest.mark.skipif(MISSING is not None, reason=f"TorchServe cannot be started here: {MISSING}")
def test_torchserve_is_measured_and_serves(mlo: Mlo) -> None:
    # An archive, since it is what it has to beat: how much faster a small model is than itself is noise.
    for name in ("digits", "archives"):
        shutil.copytree(SPECS / name, mlo.folder / name)
    subprocess.run([sys.executable, mlo.folder / "archives" / "make.py"], check=True, timeout=120)
    spec = mlo.folder / "archives" / "torchscript.yaml"
    text = spec.read_text(encoding="utf-8").replace("name: digits-script", "name: digits-ts")
    text = text.replace("throughput: 200/s}", "throughput: 100/s, enforce: false}")
    text = text.replace("  time_budget: 5m", "  precisions: [fp32]\n  formats: [torchscript]\n  time_budget: 2m")
    spec.write_text(text + "serving: {backend: torchserve}\n", encoding="utf-8")
    (deployed,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]
    assert (deployed["backend"], deployed["variant"]) == ("torchserve", "torchscript-fp32")
    (candidate,) = deployed["decision"]["candidates"]
    assert candidate["server"]["open_loop"]["samples"] > 0
    document = mlo.json("predict", "digits-ts", "--input", str(mlo.folder / "digits" / "digits.npz"), "--json")
    with np.load(mlo.folder / "digits" / "digits.npz") as samples:
        assert (np.asarray(document["outputs"]["logits"]).argmax(axis=1) == samples["labels"]).mean() > 0.97
    assert mlo.json("status", "digits-ts", "--json")["deployments"][0]["health"] == "healthy"
    mlo.run("destroy", "digits-ts", "--yes")
