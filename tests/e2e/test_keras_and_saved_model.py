"""The examples of Keras and of SavedModels, from spec to answers."""

from __future__ import annotations

import json
import re
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
    shutil.copytree(SPECS / name, folder, dirs_exist_ok=True)
    path = folder / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("time_budget: 5m", "time_budget: 30s").replace("200/s}", "200/s, enforce: false}")
    path.write_text(text, encoding="utf-8")
    return path


def applied(mlo: Mlo, path: Path) -> dict[str, Any]:
    (deployment,) = json.loads(mlo.run("apply", str(path), "--yes", "--json", timeout=560).stdout)["deployments"]
    return dict(deployment)


def fates(deployment: dict[str, Any]) -> dict[str, str]:
    return {candidate["candidate"]: candidate["fate"] for candidate in deployment["decision"]["candidates"]}


def test_a_keras_model_is_served(mlo: Mlo) -> None:
    deployment = applied(mlo, spec(mlo, "keras"))
    assert set(fates(deployment)) >= {
        "onnx-fp32",
        "onnx-fp32@openvino",
        "onnx-int8",
        "onnx-int8@openvino",
        "saved-model-fp32",
    }
    assert not [fate for fate in fates(deployment).values() if "failed" in fate or fate == "not measured"]
    samples = mlo.folder / "keras" / "samples.npz"
    answer = mlo.json("predict", "keras-digits", "--input", str(samples), "--json")
    with np.load(samples) as file:
        right = np.asarray(answer["outputs"]["logits"]).argmax(axis=1) == file["labels"]
    assert right.mean() > 0.97


def test_a_saved_model_is_served_by_the_names_of_its_signature(mlo: Mlo) -> None:
    path = spec(mlo, "saved-model")
    assert "measurements  float32  [batch, 9]" in mlo.run("plan", str(path)).stdout
    deployment = applied(mlo, path)
    assert set(fates(deployment)) == {"onnx-fp32", "onnx-fp32@openvino", "saved-model-fp32"}
    assert not [fate for fate in fates(deployment).values() if "failed" in fate or fate == "not measured"]
    patients = {"measurements": [[59, 32.1, 101, 157, 93.2, 38, 4, 4.8598, 87]], "sex": [2]}
    (mlo.folder / "patient.json").write_text(json.dumps(patients))
    answer = mlo.json("predict", "diabetes", "--input", "patient.json", "--json")["outputs"]
    # The first of the data set, with what TensorFlow itself answers.
    assert answer["progression"] == pytest.approx([211.344], abs=0.01)
    assert answer["grade"] == [2]


def test_two_versions_are_kept_for_tensorflow_serving_and_a_rollback_moves_the_label(mlo: Mlo) -> None:
    """No server is here, so what is looked at is the folder that one would read."""
    path = spec(mlo, "saved-model")
    text = path.read_text(encoding="utf-8").replace("name: diabetes", "name: ward")
    text = text.replace("deploy: {target: local}", "deploy: {target: folder, path: ward}")
    text += "serving: {backend: tensorflow-serving}\n"
    folder = path.parent / "ward"
    path.write_text(text, encoding="utf-8")
    decision = applied(mlo, path)["decision"]
    batching = "serving: {batching: {max_size: 4, max_delay: 2ms}, backend"
    path.write_text(text.replace("serving: {backend", batching), encoding="utf-8")
    applied(mlo, path)
    assert decision["compared"] == "runtimes"
    assert any("tensorflow_model_server" in note for note in decision["notes"])
    assert sorted(version.name for version in (folder / "models" / "ward").iterdir()) == ["1", "2"]
    assert labels(folder) == {"stable": 2, "previous": 1}

    mlo.run("rollback", "ward", "--yes")

    assert labels(folder) == {"stable": 1, "previous": 2}
    assert mlo.json("status", "ward", "--json")["deployments"][0]["health"] == "healthy"
    mlo.run("destroy", "ward", "--yes")
    assert not folder.exists()


def labels(folder: Path) -> dict[str, int]:
    """Label → version, from models.config; that the whole file is TensorFlow Serving's is shown in tests/backends."""
    text = (folder / "models.config").read_text("utf-8")
    found = re.findall(r'version_labels\s*{\s*key: "(\w+)"\s*value: (\d+)\s*}', text)
    return {label: int(version) for label, version in found}
