"""Going back to a revision that served, and deploying into a folder instead of a server."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]

_SPEC = """
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: back, labels: {release: RELEASE}}
model:
  source: {kind: pytorch, weights: digits.safetensors, factory: digits_model:DigitsNet}
  inputs: [{name: image, dtype: float32, shape: [batch, 1, 8, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 8}}
  samples: digits.npz
optimize: {formats: [onnx], precisions: [fp32], time_budget: 30s}
benchmark: {batch_sizes: [1]}
serving: {backend: onnxruntime, wire: json, limits: {queue: QUEUE}}
environments:
  shelf:
    deploy: {target: folder, path: shelf}
"""


@pytest.fixture(scope="module")
def spec(mlo: Mlo) -> Path:
    for name in ("digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, mlo.folder / name)
    return Path(mlo.folder) / "back.yaml"


def write(spec: Path, release: str) -> None:
    # A label alone is no new release on this machine: nothing that it runs has it.
    queue = 1000 + sum(release.encode())
    spec.write_text(_SPEC.replace("RELEASE", release).replace("QUEUE", str(queue)), encoding="utf-8")


def apply(mlo: Mlo, spec: Path, release: str, *more: str) -> dict[str, Any]:
    write(spec, release)
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json", *more)["deployments"]
    return dict(deployment)


def label(mlo: Mlo, document: dict[str, Any]) -> str:
    """The label of the release that serves, from what its server was started from."""
    state = json.loads((mlo.folder / "home" / "state.json").read_text("utf-8"))
    digest = state["deployments"]["back"]["rendered_digest"]
    values = mlo.folder / "home" / "trees" / digest[:2] / digest / "values.yaml"
    return "first" if "first" in values.read_text("utf-8") else "second"


@pytest.fixture(scope="module")
def two_revisions(mlo: Mlo, spec: Path) -> dict[str, Any]:
    apply(mlo, spec, "first")
    return apply(mlo, spec, "second", "--reason", "a new label")


def test_another_service_level_with_the_same_winner_deploys_nothing(
    mlo: Mlo, spec: Path, two_revisions: dict[str, Any]
) -> None:
    written = spec.read_text(encoding="utf-8")
    with_level = spec.with_name("level.yaml")
    with_level.write_text(f"{written}slo: {{p99_latency: 9s, enforce: false}}\n", encoding="utf-8")
    told = mlo.run("apply", str(with_level), "--yes").stdout
    assert f"nothing to deploy; revision {two_revisions['revision']} (" in told


def conforms(document: Any, name: str) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(document, schema)


def test_the_revision_before_serves_again_at_the_same_endpoint(mlo: Mlo, two_revisions: dict[str, Any]) -> None:
    assert two_revisions["revision"] == 2
    assert label(mlo, two_revisions) == "second"

    after = mlo.json("rollback", "back", "--yes", "--json", "--reason", "too slow")

    conforms(after, "rollback")
    assert after["revision"] == 1
    assert after["endpoint"] == two_revisions["endpoint"]
    assert label(mlo, after) == "first"
    status = mlo.json("status", "back", "--json")["deployments"][0]
    assert (status["revision"], status["health"]) == (1, "healthy")
    mlo.run("predict", "back", "--input", "digits.npz")

    history = mlo.json("history", "back", "--json")
    conforms(history, "history")
    assert [(entry["revision"], entry["serves"]) for entry in history["revisions"]] == [(2, False), (1, True)]
    second, first = (entry["changes"] for entry in history["revisions"])
    assert [(change["op"], change["why"]) for change in second] == [("deploy", "replaces revision 1: a new label")]
    assert [(change["op"], change["why"]) for change in first] == [
        ("deploy", "first deployment"),
        ("rollback", "rollback from revision 2: too slow"),
    ]
    told = mlo.run("history", "back").stdout
    assert "rollback from revision 2: too slow" in told

    plan = mlo.run("plan", "back.yaml").stdout
    assert "replaces revision 1 and undoes the rollback of " in plan
    assert "it brings back what revision 2 was" in plan


def test_a_rollback_that_is_killed_after_its_switch_is_adopted(mlo: Mlo, two_revisions: dict[str, Any]) -> None:
    mlo.run("rollback", "back", "2", "--yes")
    killed = mlo.start("rollback", "back", "1", "--yes", MLO_CRASH_AT="release.switched")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL

    mlo.run("rollback", "back", "2", "--yes")

    assert mlo.json("status", "back", "--json")["deployments"][0]["revision"] == 2


def test_the_next_apply_takes_a_new_number(mlo: Mlo, spec: Path, two_revisions: dict[str, Any]) -> None:
    mlo.run("rollback", "back", "1", "--yes")
    assert apply(mlo, spec, "second")["revision"] == 3


@pytest.mark.parametrize(("asked", "said"), [("9", "has no revision 9"), ("3", "already serves revision 3")])
def test_an_impossible_rollback_is_refused_with_the_possible_revisions(
    mlo: Mlo, two_revisions: dict[str, Any], asked: str, said: str
) -> None:
    told = mlo.run("rollback", "back", asked, "--yes", code=64).stderr
    assert said in told
    assert "name one of 2, 1" in told


def test_nothing_is_rolled_back_without_a_yes(mlo: Mlo, two_revisions: dict[str, Any]) -> None:
    assert "E215" in mlo.run("rollback", "back", code=64).stderr


def test_it_moves_into_a_folder_and_back_and_the_folder_follows_a_rollback(
    mlo: Mlo, spec: Path, two_revisions: dict[str, Any]
) -> None:
    shelf = mlo.folder / "shelf"
    first = apply(mlo, spec, "first", "--environment", "shelf")
    assert first["endpoint"] == str(shelf)
    assert (shelf / "current" / "model.onnx").is_file()
    status = mlo.json("status", "back", "--json")["deployments"][0]
    assert (status["target"], status["health"]) == ("folder", "healthy")
    assert "E619" in mlo.run("predict", "back", "--input", "digits.npz", code=64).stderr

    second = apply(mlo, spec, "second", "--environment", "shelf")
    assert (shelf / "current").readlink().name == str(second["revision"])
    mlo.run("rollback", "back", "--yes")
    assert (shelf / "current").readlink().name == str(first["revision"])

    (shelf / "current" / "model.onnx").write_bytes(b"another")
    status = mlo.json("status", "back", "--json", code=1)["deployments"][0]
    assert status["health"] == "degraded"
    write(spec, "first")
    assert "drift" in mlo.run("plan", str(spec), "--environment", "shelf").stdout

    served = apply(mlo, spec, "second")
    assert served["endpoint"].startswith("http://")
    assert not shelf.exists()

    back = mlo.json("rollback", "back", "--yes", "--json")
    assert back["endpoint"] == str(shelf), "where that revision was in use"
    assert (shelf / "current" / "model.onnx").is_file()
    assert "moves from" in mlo.run("plan", str(spec)).stdout
    again = mlo.json("rollback", "back", "--yes", "--json")
    assert again["endpoint"].startswith("http://")
    assert not shelf.exists()
    mlo.run("destroy", "back", "--yes")
