"""The examples of Keras and of SavedModels, from spec to answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SPECS = Path(__file__).resolve().parents[2] / "specs"


def spec(mlo: Mlo, name: str) -> Path:
    """A copy of the example with little time, and without enforcing the service level: machines that test are noisy."""
    folder: Path = mlo.folder / name
    shutil.copytree(SPECS / name, folder)
    path = folder / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("time_budget: 5m", "time_budget: 30s").replace("200/s}", "200/s, enforce: false}")
    path.write_text(text, encoding="utf-8")
    return path


def applied(mlo: Mlo, path: Path) -> dict[str, Any]:
    (deployment,) = json.loads(mlo.run("apply", str(path), "--yes", "--json", timeout=560).stdout)["deployments"]
    return dict(deployment)


def fates(deployment: dict[str, Any]) -> dict[str, str]:
    return {candidate["variant"]: candidate["fate"] for candidate in deployment["decision"]["candidates"]}


def test_a_keras_model_is_served(mlo: Mlo) -> None:
    deployment = applied(mlo, spec(mlo, "keras"))
    assert set(fates(deployment)) >= {"onnx-fp32", "onnx-int8", "saved-model-fp32"}
    assert "failed" not in fates(deployment).values()
    samples = mlo.folder / "keras" / "samples.npz"
    answer = mlo.json("predict", "keras-digits", "--input", str(samples), "--json")
    with np.load(samples) as file:
        right = np.asarray(answer["outputs"]["logits"]).argmax(axis=1) == file["labels"]
    assert right.mean() > 0.97


def test_a_saved_model_is_served_by_the_names_of_its_signature(mlo: Mlo) -> None:
    path = spec(mlo, "saved-model")
    assert "measurements  float32  [batch, 9]" in mlo.run("plan", str(path)).stdout
    deployment = applied(mlo, path)
    assert set(fates(deployment)) == {"onnx-fp32", "saved-model-fp32"}
    assert "failed" not in fates(deployment).values()
    patients = {"measurements": [[59, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]], "sex": [2]}
    (mlo.folder / "patient.json").write_text(json.dumps(patients))
    answer = mlo.json("predict", "diabetes", "--input", "patient.json", "--json")["outputs"]
    # The first of the data set, with what TensorFlow itself answers.
    assert answer["progression"] == pytest.approx([211.344], abs=0.01)
    assert answer["grade"] == [2]
