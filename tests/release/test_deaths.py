"""Releases on this machine that die together with their supervisor: the last good revision comes back, and all can be freed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import DeployFailed
from orchestrator.events import ignore
from orchestrator.release.go_live import GoLive, RenderedRelease, recover
from orchestrator.release.origin import Reason
from orchestrator.release.removal import remove
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, Intent
from orchestrator.store.store import Store
from orchestrator.targets.local.control import ask
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Site
from tests.artifacts.made import winner
from tests.targets.conftest import Deployment as Served
from tests.targets.conftest import StandIn

pytestmark = pytest.mark.processes


class _DiedError(Exception):
    """The command's process is gone."""


class Machine:
    """A store with one deployment on this machine, whose revisions answer y = factor * x."""

    def __init__(self, root: Path) -> None:
        self.store = Store.open(Home(root / "home"))
        self.folder = self.store.home.deployments / "digits"
        self.target = LocalTarget.placed(LocalTarget(self.folder).placement, Site(self.store, "digits"))
        self.served = Served(self.folder, root)

    def deploy(self, factor: int) -> Deployment:
        before = recover("digits", self.store)
        with self.store.scratch_folder() as scratch:
            (scratch / "out" / "serving").mkdir(parents=True)
            (scratch / "out" / "serving" / "behaviour.json").write_text(json.dumps({"factor": factor}))
            winner(backend="onnxruntime", startup_seconds=30).write(scratch / "out")
            rendered = self.store.trees.commit(scratch / "out").digest
        release = RenderedRelease("digits", "/spec.yaml", "01", "02", rendered, rendered, {}, 1)
        revision = max(*self.target.history(), before.highest if before else 0, 0) + 1
        return GoLive(release, self.target, self.store, ignore).replace(before, revision, Reason("deploy", "a test"))

    @property
    def recorded(self) -> Deployment | None:
        return self.store.state.read().deployments.get("digits")

    def kill_supervisor(self) -> None:
        supervisor = self.served.supervisor()
        family = supervisor.children(recursive=True)
        supervisor.kill()
        psutil.wait_procs([supervisor, *family], timeout=30)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    stand_in = StandIn()
    for module in ("release.go_live", "targets.local.launching"):
        monkeypatch.setattr(f"orchestrator.{module}.serving_backend", lambda _: stand_in)
    monkeypatch.setattr(GoLive, "_check", lambda *_: None)
    made = Machine(tmp_path)
    yield made
    made.target.stop()


@pytest.fixture
def dies_after_the_switch(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine goes down when the second revision has the traffic, before the state says so."""
    machine.deploy(1)

    def crash(point: str) -> None:
        if point == "release.switched":
            machine.kill_supervisor()
            raise _DiedError

    with monkeypatch.context() as dying:
        dying.setattr("orchestrator.release.go_live.crash_point", crash)
        with pytest.raises(_DiedError):
            machine.deploy(2)


@pytest.mark.usefixtures("dies_after_the_switch")
def test_the_next_release_brings_the_last_good_revision_back_and_replaces_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[float] = []
    monkeypatch.setattr(GoLive, "_check", lambda *_: answers.append(machine.served.ask()))
    after = machine.deploy(3)
    assert answers == [1.0]
    assert machine.served.ask() == 3.0
    assert machine.target.observe().revision == after.revision
    assert machine.recorded == after


@pytest.mark.usefixtures("dies_after_the_switch")
def test_it_can_be_destroyed_at_once(machine: Machine) -> None:
    machine.store.receipts.remember("digits", "convert", "some-key")
    machine.store.receipts.remember("other", "convert", "other-key")
    assert remove(machine.store, "digits", ignore, 5).done == "stopped"
    assert machine.store.receipts.indexed_keys() == {"other-key"}, "garbage collection can free the rest"
    assert machine.recorded is None
    assert not machine.target.observe().running


def test_a_supervisor_that_dies_during_the_switch_does_not_affect_the_good_revision(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.deploy(1)
    switch = LocalTarget.switch

    def killed_first(target: LocalTarget, revision: int) -> tuple[str, ...]:
        machine.kill_supervisor()
        return switch(target, revision)

    with monkeypatch.context() as killing:
        killing.setattr(LocalTarget, "switch", killed_first)
        with pytest.raises(DeployFailed) as failed:
            machine.deploy(2)
    assert failed.value.diagnostics[0].code == "E606"
    assert machine.recorded is not None
    assert (machine.recorded.revision, machine.recorded.intent) == (1, None)
    answers: list[float] = []
    monkeypatch.setattr(GoLive, "_check", lambda *_: answers.append(machine.served.ask()))
    machine.deploy(3)
    assert answers == [1.0]
    assert machine.served.ask() == 3.0


def test_a_revision_that_serves_unrecorded_is_replaced_and_not_in_the_way(machine: Machine) -> None:
    first = machine.deploy(1)
    second = machine.deploy(2)
    intent = Intent.now("deploy", second.revision, machine.target.placement)
    machine.store.state.update(lambda state: state.with_deployment(first.with_intent(intent)))
    assert recover("digits", machine.store) == first
    assert machine.served.ask() == 2.0
    machine.deploy(3)
    assert machine.served.ask() == 3.0


def test_a_deployment_with_a_damaged_record_is_destroyed_and_the_damage_reported(machine: Machine) -> None:
    machine.deploy(1)
    (machine.folder / "endpoint.json").write_text("{")
    removed = remove(machine.store, "digits", ignore, 5)
    (note,) = removed.notes
    assert "endpoint.json cannot be read" in note
    assert machine.recorded is None
    assert not machine.target.observe().running


def test_remains_of_a_dead_run_do_not_keep_a_deployment_alive(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine.deploy(1)
    intent = Intent.now("deploy", 2, machine.target.placement)
    machine.store.state.update(lambda state: state.with_deployment(first.with_intent(intent)))
    machine.served.supervisor().suspend()
    for name in ("_STOP_SECONDS", "_ASK_SECONDS"):
        monkeypatch.setattr(f"orchestrator.targets.local.lifetime.{name}", 0.5)
    for module in ("observing", "lifetime"):
        monkeypatch.setattr(f"orchestrator.targets.local.{module}.ask", lambda *args, **_: ask(*args, seconds=0.5))
    removed = remove(machine.store, "digits", ignore, 5)
    (note,) = removed.notes
    assert "although its last run cannot be recovered: the supervisor of digits does not answer" in note
    assert machine.recorded is None
    assert not machine.target.observe().running
