"""A search on the digits model: rounds, the finalists in their servers, every fate told, and nothing done twice."""

from __future__ import annotations

import json
import math
import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from orchestrator.plan.search.budget import Budget
from orchestrator.plan.step import Succeeded, Took

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

_DIGITS = Path(__file__).parents[2] / "specs" / "digits"
_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: pytorch, weights: digits.safetensors, factory: digits_model:DigitsNet}
  inputs: [{name: image, dtype: float32, shape: [batch, 1, 8, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
  samples: digits.npz
optimize: {formats: [onnx], precisions: [fp32], time_budget: BUDGET, search: true}
benchmark: {batch_sizes: [1]}
serving: {backend: onnxruntime, wire: json}
hardware: {cpus: 2, memory: 1Gi}
slo: {throughput: 50/s, enforce: false}
deploy: {target: folder, path: served}
"""


def _written(mlo: Mlo, budget: str, *, search: bool = True) -> Path:
    for name in ("digits.safetensors", "digits_model.py", "digits.npz"):
        shutil.copy(_DIGITS / name, mlo.folder / name)
    spec: Path = mlo.folder / "digits.yaml"
    text = _SPEC.replace("BUDGET", budget).replace("search: true", f"search: {str(search).lower()}")
    spec.write_text(text, encoding="utf-8")
    return spec


def _receipts(mlo: Mlo) -> list[dict[str, Any]]:
    return [json.loads(file.read_bytes()) for file in (mlo.folder / "home").glob("receipts/*.json")]


def _spent(receipts: list[dict[str, Any]]) -> float:
    """Seconds during which a step ran that counts towards the time budget; waiting for other measurements does not."""
    counts = [each for each in receipts if each["kind"] in {"import", "convert", "optimize", "verify", "benchmark"}]
    took = [Took(datetime.fromisoformat(each["started"]).timestamp(), each["seconds"]) for each in counts]
    return Budget(float("inf"), {str(number): Succeeded(Path(), each) for number, each in enumerate(took)}).spent


class Searched(NamedTuple):
    """What came of a search, and of the same spec without one before it."""

    spec: Path
    budget: float
    spent: float
    counted: list[dict[str, Any]]
    deployment: dict[str, Any]


@pytest.fixture(scope="module")
def searched(mlo: Mlo) -> Searched:
    """With half as much again as the same takes without a search on this machine, so that not everything can be tried."""
    assert "the first round of the search" in mlo.run("plan", str(_written(mlo, "10m"))).stdout
    # The budget does not count the time in which other measurements of this machine run.
    mlo.run("apply", str(_written(mlo, "10m", search=False)), "--yes", timeout=800)
    plain = _receipts(mlo)
    budget = max(60, math.ceil(1.5 * _spent(plain)))
    if budget > 400:
        pytest.skip(f"this machine is too busy: without a search, the steps take {_spent(plain):.0f} s")
    spec = _written(mlo, f"{budget}s")
    assert "the next round of the search" in mlo.run("plan", str(spec)).stdout
    applied = mlo.run("apply", str(spec), "--yes", "--json", timeout=800)
    repeated = {each["step"] for each in plain if each["kind"] == "benchmark"}
    counted = [each for each in _receipts(mlo) if each not in plain or each["step"] not in repeated]
    (deployment,) = json.loads(applied.stdout)["deployments"]
    return Searched(spec, budget, _spent(counted), counted, deployment)


def test_the_time_budget_is_kept_within_a_tenth(searched: Searched) -> None:
    assert searched.spent <= 1.1 * searched.budget
    steps = {each["step"] for each in searched.counted}
    assert "benchmark.round-1" in steps, f"{searched.spent:.0f} s of {searched.budget} s"
    assert searched.deployment["decision"]["winner"] is not None


def test_a_search_changes_what_leads_and_tells_every_fate(searched: Searched) -> None:
    decision = searched.deployment["decision"]
    decided = {each["candidate"]: each for each in decision["candidates"]}
    assert {"onnx-fp32+threads=1", "onnx-fp32+spinning=true"} <= decided.keys()
    for name, each in decided.items():
        assert each["reason"], name
        if each["fate"] == "did not help":
            assert "times (" in each["reason"]
            assert " turns) as long as onnx-fp32" in each["reason"]
    assert decided["onnx-fp32"]["fate"] in {"won", "lost"}, "the plain one goes on whatever helps"
    assert decision["winner"]["candidate"] in decided


def test_a_search_is_cached_and_a_round_of_it_can_be_measured_again(mlo: Mlo, searched: Searched) -> None:
    again = mlo.run("apply", str(searched.spec), "--yes")
    assert "started" not in again.stderr, "a second run finds every round"
    replaced = mlo.run("plan", str(searched.spec), "--replace", "benchmark.round-1").stdout
    assert "forced by --replace" in replaced
