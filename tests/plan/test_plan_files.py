"""What a saved plan may say of a step; the commands that read and apply it are tested in `tests/cli`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import UsageError
from orchestrator.plan.plan_file import SavedPlan, SavedStep, StepStatus, read_plan_file, write_plan_file


def saved(folder: Path, *statuses: StepStatus) -> Path:
    """A plan with a step of each status."""
    steps = (SavedStep(id=s, kind="convert", status=s, reason="a reason", key=None) for s in statuses)
    plan: dict[str, Any] = dict.fromkeys(("environment", "platform", "deployed", "signature"))
    plan |= dict.fromkeys(("forced", "refused", "notes"), ()) | {"machine": {}, "parts": {}, "compiled": {}}
    file = folder / "plan.json"
    write_plan_file(file, [SavedPlan(name="a", spec="a.yaml", spec_digest="", steps=tuple(steps), **plan)])
    return file


def test_every_status_is_read_back(tmp_path: Path) -> None:
    statuses: tuple[StepStatus, ...] = ("cached", "run", "forced", "skipped", "known after run", "+", "~", "=")
    (plan,) = read_plan_file(saved(tmp_path, *statuses))
    assert tuple(step.status for step in plan.steps) == statuses


def test_a_status_that_no_plan_has_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, "run")
    document = json.loads(file.read_bytes())
    document["plans"][0]["steps"][0]["status"] = "-"
    file.write_text(json.dumps(document), encoding="utf-8")

    with pytest.raises(UsageError) as caught:
        read_plan_file(file)

    (told,) = caught.value.diagnostics
    assert told.code == "E210"
    assert "status" in told.cause
