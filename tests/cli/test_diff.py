"""What `mlo diff` tells of what a target sees: what somebody has changed, and what is under way."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.diff import diff
from orchestrator.targets.target import Observed
from tests.cli.conftest import conforms, store_with_digits

UPDATE = "an update is in progress (Helm: pending-upgrade): process 12 on build-7 holds the Lease"
LABEL = "Service digits: metadata.labels.team is gone, was deployed as vision"


@pytest.fixture(autouse=True)
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that has deployed revision 1 of `digits`."""
    home = store_with_digits(tmp_path / "home")
    monkeypatch.setenv("MLO_HOME", str(home.root))


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str, **seen: Any) -> tuple[int, str]:
    """The exit code and the output of `mlo diff digits` where a target sees this."""
    fields: dict[str, Any] = {"running": True, "health": "healthy", "reason": "", "endpoint": None, "revision": 1}
    observed = Observed(**fields | seen)
    monkeypatch.setattr("orchestrator.cli.diff.target_of", lambda *_: SimpleNamespace(observe=lambda: observed))
    done = CliRunner().invoke(diff, ["digits", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout


@pytest.mark.parametrize(
    ("seen", "code", "lines"),
    [
        ({}, 0, ["digits: as revision 1 was deployed"]),
        ({"differences": (LABEL,), "health": "degraded"}, 1, [LABEL]),
        ({"revision": 2}, 1, ["revision 1 was deployed, and revision 2 serves"]),
        (
            {"revision": 2, "health": "degraded", "reason": "0 of 1 pods are ready"},
            1,
            ["revision 1 was deployed, and revision 2 serves", "0 of 1 pods are ready"],
        ),
        (
            {"revision": None, "health": "stopped", "reason": "the container mlo-digits-r1 was removed"},
            1,
            ["revision 1 was deployed, and nothing serves: the container mlo-digits-r1 was removed"],
        ),
        (
            {"revision": None, "health": "degraded", "reason": "the Docker Engine at tcp://build-7 does not respond"},
            1,
            [
                "revision 1 was deployed, and what serves cannot be told: the Docker Engine at tcp://build-7 does not respond"
            ],
        ),
        ({"revision": None, "health": "stopped"}, 1, ["revision 1 was deployed, and nothing serves"]),
        ({"health": "degraded", "reason": "0 of 1 pods are ready"}, 1, ["0 of 1 pods are ready"]),
        ({"progress": UPDATE, "reason": UPDATE, "revision": 2, "health": "degraded"}, 0, [f"digits: {UPDATE}"]),
        ({"progress": UPDATE, "differences": (LABEL,)}, 1, [LABEL, f"digits: {UPDATE}"]),
    ],
)
def test_what_was_changed_fails_and_what_is_under_way_does_not(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], code: int, lines: list[str]
) -> None:
    assert told(monkeypatch, **seen) == (code, "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("progress", ["", UPDATE])
def test_its_document_says_what_is_under_way(monkeypatch: pytest.MonkeyPatch, progress: str) -> None:
    code, printed = told(monkeypatch, "--json", progress=progress)
    document = json.loads(printed)
    conforms(document, "diff")
    assert code == 0
    assert document == {"name": "digits", "revision": 1, "differences": [], "progress": progress or None}
