"""An apply in which no candidate can be made: nothing is measured, and the decision is shown, kept and explained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import conforms
from tests.e2e.conftest import DIGITS, Mlo

pytestmark = pytest.mark.e2e

FACTORY = """
import torch
from digits_model import DigitsNet


class Branching(DigitsNet):
    def forward(self, image):
        logits = super().forward(image)
        return -logits if bool(logits.sum() > 1e6) else logits
"""


@pytest.fixture
def spec(mlo: Mlo) -> Path:
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(DIGITS / name, mlo.folder / name)
    (mlo.folder / "branching.py").write_text(FACTORY, encoding="utf-8")
    text = (DIGITS / "digits.yaml").read_text(encoding="utf-8")
    text = text.replace("digits_model:DigitsNet", "branching:Branching")
    text = text.replace("precisions: [fp32, bf16, int8]", "formats: [onnx]\n  precisions: [fp32, int8]")
    path = mlo.folder / "digits.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_is_measured_and_the_decision_is_a_result(mlo: Mlo, spec: Path) -> None:
    done = mlo.run("apply", str(spec), "--yes", code=1)
    why = "no candidate passed verification, so there is nothing to measure"
    for step in ("benchmark.runtime", "benchmark.server"):
        assert re.search(rf"^{step}: skipped.*: {why}$", done.stderr, re.MULTILINE)
    assert "benchmark.runtime: started" not in done.stderr
    assert "error[E502]: no candidate is left" in done.stderr
    assert "onnx-int8" in done.stdout
    assert "conversion failed [E428]" in done.stdout

    again = mlo.run("apply", str(spec), "--yes", "--json", code=1)
    document = json.loads(again.stdout)
    conforms(document, "errors")
    fates = {each["candidate"]: each["fate"] for each in document["refused"]["decision"]["candidates"]}
    assert set(fates.values()) == {"conversion failed"}
    assert "started" not in again.stderr, "the refusal is remembered"

    planned = mlo.run("plan", str(spec)).stdout
    assert "Plan: nothing to run or deploy: select did not succeed: no candidate is left." in planned
    explained = " ".join(mlo.run("explain", str(spec)).stdout.split())
    assert "nothing won [E502]: no candidate is left" in explained
    assert "conversion failed [E428]" in mlo.run("explain", str(spec), "onnx-fp32").stdout
