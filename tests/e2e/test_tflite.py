"""The LiteRT example from spec to answers: served through ONNX, and as a file in a folder for devices."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).resolve().parents[2] / "specs" / "tflite"


@pytest.fixture(scope="module")
def spec(mlo: Mlo) -> Path:
    """The example without enforcing the service level: machines that test are noisy."""
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copy(file, mlo.folder / file.name)
    path: Path = mlo.folder / "tflite.yaml"
    text = path.read_text(encoding="utf-8").replace("throughput: 200/s}", "throughput: 200/s, enforce: false}")
    path.write_text(text.replace("time_budget: 2m", "time_budget: 30s"), encoding="utf-8")
    return path


def apply(mlo: Mlo, spec: Path, *more: str) -> dict[str, Any]:
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json", *more)["deployments"]
    return dict(deployment)


def test_the_plan_shows_the_content_of_the_file(mlo: Mlo, spec: Path) -> None:
    shown = mlo.run("plan", str(spec)).stdout
    assert "measures       float32  [batch, 13]" in shown
    assert "probabilities" in shown


def test_the_model_is_served_through_onnx(mlo: Mlo, spec: Path) -> None:
    deployment = apply(mlo, spec)
    assert deployment["decision"]["winner"]["variant"] in {"onnx-fp32", "onnx-int8"}
    with np.load(mlo.folder / "samples.npz") as samples:
        measures, labels = samples["measures"], samples["labels"]
    (mlo.folder / "request.json").write_text(json.dumps({"measures": measures.tolist()}), encoding="utf-8")
    answer = mlo.json("predict", "wine", "--input", "request.json", "--json")["outputs"]
    probabilities = np.asarray(answer["probabilities"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95


def test_the_file_itself_goes_to_devices(mlo: Mlo, spec: Path) -> None:
    deployment = apply(mlo, spec, "--environment", "edge")
    assert deployment["decision"]["winner"]["variant"] == "tflite-fp32"
    current = mlo.folder / "deployed" / "current"
    assert (current / "model.tflite").read_bytes() == (EXAMPLE / "wine.tflite").read_bytes()
    described = json.loads((current / "model.json").read_text(encoding="utf-8"))
    assert described["sha256"] == hashlib.sha256((EXAMPLE / "wine.tflite").read_bytes()).hexdigest()
    assert [tensor["name"] for tensor in described["signature"]["inputs"]] == ["measures"]


def test_a_damaged_file_is_refused_while_planning(mlo: Mlo, spec: Path) -> None:
    whole = (EXAMPLE / "wine.tflite").read_bytes()
    (mlo.folder / "wine.tflite").write_bytes(whole[: len(whole) // 2])
    refused = mlo.run("plan", str(spec), code=1).stderr
    assert "E302" in refused
    assert "the file is cut short or damaged: copy or convert it again" in " ".join(refused.split())
    (mlo.folder / "wine.tflite").write_bytes(whole)
