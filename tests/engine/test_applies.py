"""An apply keeps only what its plan has; one that fails keeps its error, and says what serves afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine import apply
from orchestrator.engine.planning import make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import DeployFailed, MloError, StoreFailed
from orchestrator.events import ignore
from orchestrator.plan.resolve import Outcome
from orchestrator.release import live
from orchestrator.targets.folder.target import FolderTarget
from tests.engine.test_going_live import Place

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: torchscript, weights: model.pt}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
deploy: {target: folder, path: deployed}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Revision 1 of `digits` in a folder, and the spec of another one."""
    (tmp_path / "model.pt").write_bytes(b"a model")
    (tmp_path / "spec.yaml").write_text(SPEC, "utf-8")
    place = Place(tmp_path)
    place.deploy("one")
    return place


def failed_apply(place: Place, monkeypatch: pytest.MonkeyPatch, deploy: Any) -> MloError:
    """The error of an apply whose steps are done and whose release is `deploy`."""

    class Released:
        def __init__(self, *_: Any) -> None:
            pass

        def deploy(self, *_: Any) -> Any:
            return deploy()

    monkeypatch.setattr(apply, "run_steps", lambda *_: {})
    monkeypatch.setattr(apply, "PlanRelease", Released)
    planned = make_plan(place.root / "spec.yaml", place.store)
    with pytest.raises(MloError) as failed:
        apply.apply_plan(planned, place.store, ignore, Stop(), 1)
    return failed.value


def refuse() -> NoReturn:
    error = DeployFailed(Diagnostic("E601", "it does not start"))
    error.add_note("undoing it also failed: the disk is full")
    raise error


def test_the_error_keeps_its_notes_and_says_that_nothing_has_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = failed_apply(place, monkeypatch, refuse)
    assert [(each.code, each.message.partition(":")[0]) for each in error.diagnostics] == [
        ("E601", "it does not start"),
        ("W601", "digits is unchanged"),
    ]
    assert error.__notes__ == ["undoing it also failed: the disk is full"]


def test_a_switch_that_is_not_recorded_is_not_called_unchanged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = FolderTarget.switch

    def switched_and_failed(target: FolderTarget, revision: int) -> NoReturn:
        switch(target, revision)
        raise DeployFailed(Diagnostic("E607", "it failed on the way"))

    monkeypatch.setattr(FolderTarget, "switch", switched_and_failed)
    error = failed_apply(place, monkeypatch, lambda: place.deploy("two"))
    assert [each.code for each in error.diagnostics] == ["E607", "W602"]
    assert error.diagnostics[1].message.startswith("digits was switched to revision 2 at ")
    assert place.used == "two"
    assert place.recorded is not None
    assert place.recorded.revision == 1


def test_an_error_while_looking_at_what_serves_does_not_replace_the_first(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> NoReturn:
        raise StoreFailed(Diagnostic("E704", "the state cannot be read"))

    def break_and_refuse() -> NoReturn:
        monkeypatch.setattr(live, "target_of", fails)
        refuse()

    error = failed_apply(place, monkeypatch, break_and_refuse)
    assert [each.code for each in error.diagnostics] == ["E601"]
    assert error.__notes__[1:] == ["what serves now cannot be found out: the state cannot be read"]


def test_a_run_forgets_the_steps_that_its_plan_no_longer_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = place.store.receipts
    for step, name in (("import", "digits"), ("convert.gone", "digits"), ("convert.gone", "other")):
        receipts.remember(name, step, f"{name}-{step.replace('.', '-')}")
    planned = make_plan(place.root / "spec.yaml", place.store)
    monkeypatch.setattr(apply, "run_plan", lambda *_, **__: {"import": Outcome("skipped")})
    apply.run_steps(planned, place.store, ignore, Stop())
    assert receipts.indexed_keys() == {"digits-import", "other-convert-gone"}
