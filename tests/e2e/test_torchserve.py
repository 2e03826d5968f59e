"""The digits example served by the real TorchServe, where Java 17 and the package are there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from orchestrator.backends.table import backend

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
DIGITS = Path(__file__).resolve().parents[2] / "specs" / "digits"
MISSING = backend("torchserve").unavailable()


@pytest.mark.skipif(MISSING is not None, reason=f"TorchServe cannot be started here: {MISSING}")
def test_torchserve_is_measured_and_serves(mlo: Mlo) -> None:
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(DIGITS / name, mlo.folder / name)
    text = (DIGITS / "digits.yaml").read_text(encoding="utf-8")
    text = text.replace("name: digits", "name: digits-ts").replace(
        "throughput: 200/s}", "throughput: 50/s, enforce: false}"
    )
    text = text.replace("precisions: [fp32, bf16, int8]", "precisions: [fp32]\n  formats: [torchscript]")
    (mlo.folder / "ts.yaml").write_text(text + "\nserving: {backend: torchserve}\n", encoding="utf-8")
    (deployed,) = mlo.json("apply", "ts.yaml", "--yes", "--json")["deployments"]
    assert (deployed["backend"], deployed["variant"]) == ("torchserve", "torchscript-fp32")
    (candidate,) = deployed["decision"]["candidates"]
    assert candidate["server"]["open_loop"]["samples"] > 0
    document = mlo.json("predict", "digits-ts", "--input", "digits.npz", "--json")
    with np.load(mlo.folder / "digits.npz") as samples:
        assert (np.asarray(document["outputs"]["logits"]).argmax(axis=1) == samples["labels"]).mean() > 0.97
    assert mlo.json("status", "digits-ts", "--json")["deployments"][0]["health"] == "healthy"
    mlo.run("destroy", "digits-ts", "--yes")
