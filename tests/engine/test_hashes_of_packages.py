"""What an index said of the image's packages: what is rendered of it, how long it is kept, and what is reported."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.engine import locking
from orchestrator.events import Event, StepEnded
from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import WheelsMissing, hashes_in_index
from orchestrator.machine.here import Hashes
from orchestrator.spec.load import load_spec
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from tests.plan.spec_text import DECLARED

Ask = Callable[..., dict[str, str]]


class Case:
    """A spec, a store, and an index that says what `says` returns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "spec.yaml").write_text(DECLARED, "utf-8")
        (folder / "digits.pt").write_bytes(b"0")
        self._loaded = load_spec(folder / "spec.yaml")
        self.home = Home(folder / ".mlo")
        self.home.prepare()
        self.asked = 0
        self.events: list[Event] = []
        self.says: Ask = _everything
        monkeypatch.setattr(locking, "hashes_in_index", self._ask)

    def _ask(self, pins: list[str], settings: BuildSettings, platform: str) -> dict[str, str]:
        self.asked += 1
        return self.says(pins, platform)

    def hashes(self) -> Hashes:
        return locking.look_up_hashes(self._loaded, "linux/amd64", Store.at(self.home), self.events.append)

    def reported(self) -> list[str]:
        return [event.detail for event in self.events if isinstance(event, StepEnded) and event.status == "skipped"]

    def let_pass(self, seconds: float) -> None:
        for file in self.home.hashes.iterdir():
            then = time.time() - seconds
            os.utime(file, (then, then))


def _everything(pins: list[str], platform: str) -> dict[str, str]:
    return dict.fromkeys(pins, "a" * 64 if platform == "linux/amd64" else "b" * 64)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def test_what_is_rendered_does_not_depend_on_why_an_index_cannot_be_asked(case: Case) -> None:
    reasons = []
    for cause in ("there is no pip beside /a/.venv/bin/python", "the package index does not answer"):

        def fails(pins: list[str], platform: str, cause: str = cause) -> dict[str, str]:
            raise WheelsMissing(cause)

        case.says = fails
        reasons.append(case.hashes())
        assert case.reported()[-1].endswith(cause), "the cause is reported all the same"
        case.let_pass(3600)
    assert reasons[0] == reasons[1]
    assert "venv" not in reasons[0].unlocked


def test_an_index_that_does_not_answer_is_not_asked_again_at_once_but_later(case: Case) -> None:
    def silent(pins: list[str], platform: str) -> dict[str, str]:
        raise WheelsMissing("the package index does not answer")

    case.says = silent
    first = case.hashes()
    assert case.hashes() == first
    assert case.asked == 1
    assert len(case.reported()) == 2
    case.let_pass(3600)
    case.says = _everything
    assert case.hashes().known


def test_that_an_index_has_no_file_of_a_package_is_not_kept_for_ever(case: Case) -> None:
    missing: list[str] = []

    def lacks_one(pins: list[str], platform: str) -> dict[str, str]:
        missing[:] = missing or pins[:1]
        if missing[0] in pins:
            raise WheelsMissing(f"the index has no wheel of {missing[0]}", missing[0])
        return _everything(pins, platform)

    case.says = lacks_one
    assert case.hashes().known[missing[0]] == ()
    case.let_pass(3600)
    case.says = _everything
    assert case.hashes().known[missing[0]]
    asked = case.asked
    case.let_pass(365 * 24 * 3600)
    assert case.hashes().known[missing[0]]
    assert case.asked == asked, "what is complete is kept"


def test_an_environment_without_pip_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.images.wheels.find_spec", lambda _: None)
    with pytest.raises(WheelsMissing, match=r"no pip beside .*python.*; install it with `python -m ensurepip`"):
        hashes_in_index(["packaging==26.3"], BuildSettings("digits"), "linux/amd64")


def test_a_pip_that_takes_too_long_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(argv: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(argv, 600)

    monkeypatch.setattr("orchestrator.images.wheels.subprocess.run", slow)
    settings = BuildSettings("digits", pip_index="http://reader:a-secret@127.0.0.1:9/simple")
    with pytest.raises(WheelsMissing) as missing:
        hashes_in_index(["packaging==26.3"], settings, "linux/amd64")
    assert "a-secret" not in str(missing.value)
