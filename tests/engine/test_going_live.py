"""Releases into a folder that are killed, refused or interrupted: the revision in use stays complete, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from orchestrator.cli.main import cli
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed, StoreFailed, UsageError
from orchestrator.events import Event, Observer, ignore
from orchestrator.release.go_live import GoLive, RenderedRelease, recover
from orchestrator.release.origin import Reason
from orchestrator.release.rollback import roll_back
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.folder.marker import lock_folder
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.section import Canary
from tests.artifacts.made import winner

pytestmark = pytest.mark.processes


class Place:
    """A store and a folder, and what a test does with them."""

    def __init__(self, root: Path, name: str = "digits", home: str = "home") -> None:
        self.root, self.name = root, name
        self.home = Home(root / home)
        self.store = Store.open(self.home)
        self.folder = root / "deployed"
        self.target = FolderTarget(self.folder, name, keep=2)
        self.observer: Observer = ignore

    def rendered(self, content: str, backend: str = "litert") -> str:
        with self.store.scratch_folder() as scratch:
            serving = scratch / "out" / "serving"
            serving.mkdir(parents=True)
            (serving / "model").write_text(content)
            winner(backend=backend, startup_seconds=1).write(scratch / "out")
            return self.store.trees.commit(scratch / "out").digest

    def ready(self, content: str, backend: str = "litert") -> RenderedRelease:
        rendered = self.rendered(content, backend)
        return RenderedRelease(self.name, "/spec.yaml", "01", "02", rendered, rendered, {}, 1)

    def deploy(self, content: str, backend: str = "litert") -> Deployment:
        known = recover(self.name, self.store, self.observer)
        revision = max(*self.target.history(), known.highest if known else 0, 0) + 1
        return GoLive(self.ready(content, backend), self.target, self.store, self.observer).replace(
            known, revision, Reason("deploy", "a test")
        )

    @property
    def recorded(self) -> Deployment | None:
        return self.store.state.read().deployments.get(self.name)

    @property
    def used(self) -> str | None:
        current = self.folder / "current" / "model"
        return current.read_text() if current.exists() else None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


_DEPLOY = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.engine.test_going_live import Place
Place(Path(sys.argv[2]), sys.argv[3]).deploy(sys.argv[4], sys.argv[5])
"""


def killed(place: Place, point: str, content: str, backend: str = "litert") -> None:
    arguments = [str(Path(__file__).parents[2]), str(place.root), place.name, content, backend]
    done = subprocess.run(
        [sys.executable, "-c", _DEPLOY, *arguments], env={**os.environ, "MLO_CRASH_AT": point}, check=False
    )
    assert done.returncode == -signal.SIGKILL, point


POINTS = [
    "release.intent-written",
    "folder.copied",
    "folder.placed",
    "folder.started",
    "release.started",
    "folder.switched",
    "folder.recorded",
    "release.switched",
    "release.recorded",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_first_release_that_is_killed_can_be_done_again(place: Place, point: str) -> None:
    killed(place, point, "one")
    after = place.deploy("one")
    assert place.used == "one"
    assert place.target.observe().revision == after.revision
    assert place.target.observe().health == "healthy"
    assert place.recorded == after


def test_a_first_release_under_way_has_no_number_yet_and_nothing_before_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed(place, "folder.copied", "one")
    monkeypatch.setenv("MLO_HOME", str(place.home.root))

    cli.main(["status", "--json"], prog_name="mlo", standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["deployments"]
    assert row["revision"] is None
    cli.main(["status", place.name], prog_name="mlo", standalone_mode=False)
    assert "None" not in capsys.readouterr().out
    with pytest.raises(UsageError) as refused:  # it is not asked for --yes before
        cli.main(["rollback", place.name], prog_name="mlo", standalone_mode=False)
    (found,) = refused.value.diagnostics
    assert (found.code, found.cause) == ("E622", "its first revision is still being deployed, or that was interrupted")


@pytest.mark.parametrize("revision", [[], ["1"]])
def test_a_rollback_goes_back_from_what_a_command_switched_to_before_it_was_killed(
    place: Place, revision: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.deploy("one")
    killed(place, "release.switched", "two")
    assert place.used == "two"
    monkeypatch.setenv("MLO_HOME", str(place.home.root))
    cli.main(["rollback", place.name, *revision, "--yes"], prog_name="mlo", standalone_mode=False)
    assert place.used == "one"
    assert "digits: revision 1" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ["litert", "onnxruntime"])
@pytest.mark.parametrize("point", POINTS)
def test_the_revision_in_use_is_complete_whenever_the_next_one_is_killed(
    place: Place, point: str, backend: str
) -> None:
    place.deploy("one")
    killed(place, point, "two", backend)
    assert place.used in {"one", "two"}
    assert place.target.observe().health == "healthy"

    recover(place.name, place.store)
    assert place.recorded is not None
    assert place.recorded.intent is None
    assert place.recorded.revision == place.target.observe().revision

    place.deploy("three", backend)
    assert place.used == "three"
    assert not list(place.folder.rglob(".tmp-*"))


@pytest.mark.parametrize("point", POINTS)
def test_a_rollback_that_is_killed_keeps_both_revisions(place: Place, point: str) -> None:
    place.deploy("one")
    place.deploy("two")
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.engine.test_going_live import Place\n"
        "from orchestrator.release.rollback import roll_back\n"
        "from orchestrator.events import Event, Observer, ignore\n"
        "p = Place(Path(sys.argv[2])); roll_back(p.store, 'digits', None, ignore, 1)\n"
    )
    arguments = [sys.executable, "-c", script, str(Path(__file__).parents[2]), str(place.root)]
    done = subprocess.run(arguments, env={**os.environ, "MLO_CRASH_AT": point}, check=False)
    if point in {"folder.copied", "folder.placed"}:
        assert done.returncode == 0, "what is there is not copied again"
    else:
        assert done.returncode == -signal.SIGKILL
    assert place.used in {"one", "two"}
    assert sorted(path.name for path in (place.folder / "revisions").iterdir()) == ["1", "2"]
    recover(place.name, place.store)
    assert place.recorded is not None
    assert place.recorded.revision == place.target.observe().revision


def test_another_deployment_in_the_folder_is_not_touched(place: Place) -> None:
    place.deploy("one")
    place.deploy("two")
    other = Place(place.root, "other")

    with pytest.raises(DeployFailed) as refused:
        other.deploy("mine")

    assert refused.value.diagnostics[0].code == "E620"
    assert "holds the deployment digits" in refused.value.diagnostics[0].cause
    assert place.used == "two"
    assert sorted(path.name for path in (place.folder / "revisions").iterdir()) == ["1", "2"]
    assert other.recorded is None
    for change in (other.target.stop, lambda: other.target.drop(1), lambda: other.target.switch(1)):
        with pytest.raises(DeployFailed):
            change()
    assert place.target.observe().health == "healthy"
    assert other.target.observe().health == "degraded"


def test_another_store_takes_new_numbers_in_the_same_folder(place: Place) -> None:
    place.deploy("old")
    elsewhere = Place(place.root, home="second")
    assert elsewhere.deploy("new").revision == 2
    assert place.used == "new"


def test_two_stores_do_not_deploy_into_one_folder_at_once(place: Place) -> None:
    place.deploy("one")
    with lock_folder(place.folder), pytest.raises(Busy) as busy:
        place.deploy("two")
    assert busy.value.diagnostics[0].code == "E605"
    assert place.used == "one"
    assert place.recorded is not None
    assert place.recorded.intent is None, "nothing was begun, so nothing of another store's is withdrawn for it"
    assert busy.value.diagnostics[0].remedy == "wait until it has ended, then run the command again"
    place.deploy("two")
    assert place.used == "two"


def test_what_another_store_put_there_meanwhile_is_not_overwritten(place: Place) -> None:
    place.deploy("one")
    ready = place.ready("mine")
    elsewhere = Place(place.root, home="second")
    assert elsewhere.deploy("theirs").revision == 2

    with pytest.raises(Busy) as busy:  # the number was free when this began
        GoLive(ready, place.target, place.store, ignore).replace(
            recover(place.name, place.store), 2, Reason("deploy", "a test")
        )

    assert busy.value.diagnostics[0].code == "E605"
    assert place.used == "theirs"
    assert place.target.observe().health == "healthy"
    assert place.deploy("mine").revision == 3
    assert place.used == "mine"


def test_a_folder_that_is_gone_can_be_recovered_and_filled_again(place: Place) -> None:
    place.deploy("one")
    killed(place, "folder.started", "two")
    shutil.rmtree(place.folder)
    assert place.deploy("three").revision > 1
    assert place.used == "three"


def test_numbers_never_come_back_however_often_it_is_rolled_back(place: Place) -> None:
    for content in ("one", "two", "three"):
        place.deploy(content)
    for _ in range(11):
        roll_back(place.store, place.name, None, ignore, 1)
    known = place.recorded
    assert known is not None
    assert {entry.revision for entry in known.history} == {1, 2, 3}
    assert place.deploy("four").revision == 4
    assert place.used == "four"


def test_what_was_damaged_in_the_store_does_not_serve_again(place: Place) -> None:
    first = place.deploy("one")
    place.deploy("two")
    stored = place.store.trees.path(first.rendered_digest) / "serving" / "model"
    stored.chmod(0o644)
    stored.write_text("damaged")

    with pytest.raises(UsageError) as refused:
        roll_back(place.store, place.name, 1, ignore, 1)

    assert refused.value.diagnostics[0].code == "E622"
    assert place.used == "two"
    assert refused.value.diagnostics[0].remedy == "run `mlo apply` with the spec that it was made from"
    place.deploy("one")
    assert place.used == "one"
    for asked in (7, 3):
        with pytest.raises(UsageError) as refused:
            roll_back(place.store, place.name, asked, ignore, 1)
        (listed,) = re.findall(r"name one of ([\d, ]+);", refused.value.diagnostics[0].remedy)
        assert listed == "2, 1"
    roll_back(place.store, place.name, 2, ignore, 1)
    assert place.used == "two"


def test_a_full_disk_leaves_what_is_in_use_and_no_litter(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.deploy("one")

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.store.atomic.shutil.copyfile", full)
    for backend in ("litert", "onnxruntime"):
        with pytest.raises(StoreFailed) as failed:
            place.deploy("two", backend)
        assert failed.value.diagnostics[0].code == "E701"
        assert "[" not in failed.value.diagnostics[0].cause
        assert place.used == "one"
    monkeypatch.undo()
    assert place.deploy("two").revision > 1
    assert place.used == "two"


def test_a_rollback_that_fails_says_what_serves(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.deploy("one")
    place.deploy("two")
    switch = FolderTarget.switch

    def refuse(target: FolderTarget, revision: int) -> NoReturn:
        del target, revision
        raise DeployFailed(Diagnostic("E607", "it failed on the way"))

    def switch_and_fail(target: FolderTarget, revision: int) -> NoReturn:
        switch(target, revision)
        refuse(target, revision)

    for fails, code, message in (
        (refuse, "W601", "digits is unchanged: revision 2 at "),
        (switch_and_fail, "W602", "digits was switched to revision 1 at "),
    ):
        monkeypatch.setattr(FolderTarget, "switch", fails)
        with pytest.raises(DeployFailed) as failed:
            roll_back(place.store, place.name, 1, ignore, 1)
        assert [each.code for each in failed.value.diagnostics] == ["E607", code]
        assert failed.value.diagnostics[1].message.startswith(message)
    monkeypatch.undo()
    deployed = place.deploy("one")
    assert place.recorded is not None
    assert place.used == "one"
    assert place.recorded.revision == deployed.revision, "the next apply records what serves"


def test_a_deployment_that_was_destroyed_meanwhile_is_not_rolled_back(place: Place) -> None:
    place.deploy("one")
    place.deploy("two")
    place.store.state.update(lambda state: state.without_deployment(place.name))
    with pytest.raises(UsageError) as refused:
        roll_back(place.store, place.name, 1, ignore, 1)
    assert refused.value.diagnostics[0].code == "E602"


def test_a_place_is_never_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absolute"):
        FolderTarget(Path(), "digits", 2)
    del tmp_path


def test_a_deployment_that_moved_leaves_nothing_behind_even_if_it_was_killed(place: Place) -> None:
    place.deploy("one")
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.engine.test_going_live import Place\n"
        "from orchestrator.release.go_live import GoLive, recover\n"
        "from orchestrator.release.origin import Reason\n"
        "from orchestrator.events import Event, Observer, ignore\n"
        "from orchestrator.targets.folder.target import FolderTarget\n"
        "p = Place(Path(sys.argv[2])); other = FolderTarget(Path(sys.argv[2]) / 'other', 'digits', 2)\n"
        "GoLive(p.ready('two'), other, p.store, ignore).replace(recover('digits', p.store), 2, Reason('deploy', 'a test'))\n"
    )
    arguments = [sys.executable, "-c", script, str(Path(__file__).parents[2]), str(place.root)]
    for point, folders in (("release.switched", {"deployed", "other"}), ("release.recorded", {"deployed", "other"})):
        done = subprocess.run(arguments, env={**os.environ, "MLO_CRASH_AT": point}, check=False)
        assert done.returncode == -signal.SIGKILL
        assert {path.name for path in place.root.iterdir()} >= folders
        moved = recover(place.name, place.store)
        assert moved is not None
        assert moved.placement.settings["path"] == str(place.root / "other")
        assert not place.folder.exists(), "what it moved away from is stopped"
        FolderTarget(place.root / "other", place.name, 2).stop()
        place.store.state.update(lambda state: state.without_deployment(place.name))
        place.deploy("one")


def test_a_place_that_cannot_be_left_is_reported_and_left_by_a_later_command(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.deploy("one")
    former, told = place.folder, list[Event]()
    stop = FolderTarget.stop

    def refuse(target: FolderTarget) -> tuple[str, ...]:
        if target.placement.settings["path"] == str(former):
            raise DeployFailed(Diagnostic("E640", "the former place does not respond", remedy="start it"))
        return stop(target)

    with monkeypatch.context() as gone:
        gone.setattr(FolderTarget, "stop", refuse)
        place.target, place.observer = FolderTarget(place.root / "other", place.name, keep=2), told.append
        moved = place.deploy("two")
        assert moved.leaving is not None
        assert any("the former place does not respond" in str(event) for event in told)
        again = place.deploy("three")
        assert (again.leaving, again.revision) == (moved.leaving, 3)
        assert former.exists()
    settled = recover(place.name, place.store)
    assert settled is not None
    assert settled.leaving is None
    assert not former.exists()


def test_a_switch_that_cannot_be_completed_does_not_block_later_commands(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.deploy("one")
    killed(place, "release.switched", "two")

    def refuse(target: FolderTarget, revision: int) -> NoReturn:
        del target, revision
        raise DeployFailed(Diagnostic("E643", "the port cannot be published", remedy="set another address"))

    told: list[Event] = []
    with monkeypatch.context() as failing:
        failing.setattr(FolderTarget, "switch", refuse)
        settled = recover(place.name, place.store, told.append)
    assert settled is not None
    assert (settled.revision, settled.intent) == (2, None)
    assert any("the port cannot be published" in str(event) for event in told)
    assert place.deploy("three").revision == 3


def test_only_a_release_beside_another_one_is_given_shares_and_one_that_fails_there_is_withdrawn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def split(_: FolderTarget, revision: int, share: float) -> None:
        shares.append(share)
        if revision == 3:
            raise DeployFailed(Diagnostic("E660", "it gets no share"))

    monkeypatch.setattr(FolderTarget, "split", split)
    ready = place.ready
    steps = Canary.model_validate({"steps": ["10%", "50%"]})
    monkeypatch.setattr(place, "ready", lambda *told: replace(ready(*told), canary=steps))
    place.deploy("one")
    assert shares == []
    place.deploy("two")
    assert (shares, place.used) == ([0.1], "two"), "nothing shares with it, so it takes over at the first step"
    with pytest.raises(DeployFailed, match="it gets no share"):
        place.deploy("three")
    assert (shares, place.used, place.target.history()) == ([0.1, 0.1], "two", (1, 2))
    roll_back(place.store, place.name, None, ignore, 1.0)
    assert (shares, place.used) == ([0.1, 0.1], "one"), "a rollback has no steps"
