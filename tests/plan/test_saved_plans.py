"""A saved plan is applied as it was reviewed, or is refused with everything that differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.engine import planning
from orchestrator.engine.observing import observe_here
from orchestrator.machine.here import Here
from orchestrator.plan.plan_file import SavedPlan, changes
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.home import Home
from orchestrator.store.store import Store

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: torchscript, weights: model.pt}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
"""
PACKAGES = {"onnx": "1.0", "onnxruntime": "1.0", "onnxscript": "1.0", "torch": "1.0", "openvino": None}

Saved = Callable[..., SavedPlan]


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Plan on a machine with these packages; only `import` can be looked up before something has run."""
    (tmp_path / "model.pt").write_bytes(b"a model")
    (tmp_path / "spec.yaml").write_text(SPEC, "utf-8")
    store = Store.open(Home(tmp_path / "home"))

    def plan(**packages: str | None) -> SavedPlan:
        def observed(loaded: LoadedSpec) -> Here:
            here = observe_here(loaded)
            return replace(here, packages={**here.packages, **PACKAGES, **packages})

        monkeypatch.setattr(planning, "observe_here", observed)
        return planning.make_plan(tmp_path / "spec.yaml", store).document()

    return plan


def test_the_same_plan_made_again_has_not_changed(saved: Saved) -> None:
    assert changes(saved(), saved()) == []


def test_a_candidate_that_can_be_tried_now_makes_a_plan_stale(saved: Saved) -> None:
    told = changes(saved(), saved(openvino="1.0"))
    assert any(line.startswith("the step verify.") and line.endswith("is new") for line in told)
    assert any(line.startswith("not tried: ") and "openvino is gone" in line for line in told)
    back = changes(saved(openvino="1.0"), saved())
    assert any(line.startswith("the step verify.") and line.endswith("is gone") for line in back)


def test_another_version_of_a_tool_of_a_step_that_depends_on_others_makes_a_plan_stale(saved: Saved) -> None:
    before, now = saved(), saved(onnxruntime="2.0")
    assert "verify.onnx-fp32" not in before.parts
    assert any(line.endswith("tools.onnxruntime 1.0 → 2.0") for line in changes(before, now))


def test_another_version_of_mlo_makes_a_plan_stale(saved: Saved) -> None:
    assert changes(saved().model_copy(update={"mlo": "0.0.1"}), saved()) == [f"mlo 0.0.1 → {saved().mlo}"]


def test_steps_by_which_a_plan_has_grown_meanwhile_do_not_make_it_stale(saved: Saved) -> None:
    before = saved()
    grown = before.steps[0].model_copy(update={"id": "convert.of-the-search"})
    assert changes(before, before.model_copy(update={"steps": (*before.steps, grown)})) == []
