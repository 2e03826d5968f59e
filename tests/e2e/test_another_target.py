"""A target that the package does not have goes through every command with one more row in the table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]

_SPEC = """
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: stored, labels: {release: RELEASE}}
model:
  source: {kind: pytorch, weights: digits.safetensors, factory: digits_model:DigitsNet}
  inputs: [{name: image, dtype: float32, shape: [batch, 1, 8, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 8}}
  samples: digits.npz
optimize: {formats: [onnx], precisions: [fp32], time_budget: 30s}
serving: {backend: onnxruntime, wire: json}
benchmark: {batch_sizes: [1]}
deploy: {target: shelf, board: 3}
"""

_WITH_THE_SHELF = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from orchestrator.targets import table
from tests.targets.shelf import ShelfDeploy
table.TARGETS = {**table.TARGETS, "shelf": table.TargetRow(ShelfDeploy, "tests.targets.shelf:ShelfTarget")}
from orchestrator.cli.main import main
sys.exit(main())
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, tmp_path / name)

    def run(*arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _WITH_THE_SHELF, str(ROOT), *arguments],
            cwd=tmp_path,
            env={**os.environ, "MLO_HOME": str(tmp_path / "home"), "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 or done.stdout else done.stderr

    return run


def test_a_made_up_target_is_planned_applied_observed_rolled_back_and_destroyed(run: Run, tmp_path: Path) -> None:
    spec, board = tmp_path / "stored.yaml", tmp_path / "home" / "shelf" / "board-3" / "stored"

    def card() -> int:
        return int((board / "card.json").read_text())

    def write(release: str) -> None:
        spec.write_text(_SPEC.replace("RELEASE", release), encoding="utf-8")

    write("one")
    assert "deploy" in run("plan", str(spec))
    told = run("apply", str(spec), "--yes")
    assert "stored: revision 1 (onnx-fp32 on onnxruntime) lies in front" in told
    assert "shelf: board 3" in told
    assert "mlo predict" not in told
    assert "nothing to deploy" in run("apply", str(spec), "--yes")

    write("two")
    run("apply", str(spec), "--yes")
    assert card() == 2
    assert "revision 1 (onnx-fp32 on onnxruntime) lies in front again" in run("rollback", "stored", "--yes")
    assert card() == 1

    history = json.loads(run("history", "stored", "--json"))
    assert [(row["revision"], row["serves"], row["kept"]) for row in history["revisions"]] == [
        (2, False, True),
        (1, True, True),
    ]
    assert run("logs", "stored", "--lines", "1") == "revision 2 lies here\n"
    assert "answers nothing" in run("predict", "stored", "--input", "digits.npz", code=1)

    (board / "1" / "server.json").unlink()
    status = json.loads(run("status", "--json", code=1))
    jsonschema.validate(status, json.loads((ROOT / "docs" / "schemas" / "status.schema.json").read_text("utf-8")))
    (row,) = status["deployments"]
    assert (row["target"], row["health"], row["reason"]) == ("shelf", "degraded", "the label fell off")
    assert "stored is degraded: the label fell off" in run("status", code=1)
    assert "replaces revision 1" in run("plan", str(spec))

    assert "stored: cleared away, leaving dust" in run("destroy", "stored", "--yes")
    assert not board.exists()
    assert json.loads(run("status", "--json"))["deployments"] == []


def test_a_place_that_the_target_does_not_have_is_refused_before_anything_is_computed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stored.yaml").write_text(_SPEC.replace("board: 3", "board: 10"), encoding="utf-8")
    assert "the shelf has no board 10" in run("apply", "stored.yaml", "--yes", code=1)


def test_keys_of_the_target_are_checked_like_all_others(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stored.yaml").write_text(_SPEC.replace("board: 3", "bord: 3"), encoding="utf-8")
    assert "did you mean `board`?" in run("validate", "stored.yaml", code=65)
