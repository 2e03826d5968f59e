"""What every row of the table of targets must have, so that no other code depends on which target it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import orchestrator
from orchestrator.errors import DeployFailed, StoreFailed
from orchestrator.spec.models import DeployTarget
from orchestrator.store.home import Home
from orchestrator.store.state import PlacementRecord
from orchestrator.store.store import Store
from orchestrator.targets.section import DeploySection
from orchestrator.targets.table import TARGETS, TargetRow, target_at, target_for
from orchestrator.targets.target import Site, Target
from tests.fake_engine import fake_engine
from tests.targets.shelf import ShelfDeploy

PACKAGE = Path(orchestrator.__file__).parent
ROWS = {**TARGETS, "shelf": TargetRow(ShelfDeploy, "tests.targets.shelf:ShelfTarget")}
EXAMPLES: dict[str, dict[str, Any]] = {"folder": {"path": "deployed"}, "gitops": {"path": "deployments/digits"}}
"""Keys that a section needs besides `target`."""
ELSEWHERE = {"kubernetes"}
"""Targets whose place another machine keeps: whether it can be looked at is tested with that machine."""
MEMBERS = [name for name in vars(Target) if not name.startswith("_")]

every_target = pytest.mark.parametrize("name", sorted(TARGETS))
every_row = pytest.mark.parametrize("name", sorted(ROWS))
every_row_here = pytest.mark.parametrize("name", sorted(ROWS.keys() - ELSEWHERE))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(Store.open(Home(tmp_path / "home")), "digits")


@pytest.fixture(autouse=True)
def with_an_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Targets that look at a Docker Engine see an empty one."""
    with fake_engine() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        yield


@pytest.fixture(autouse=True)
def with_the_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.targets.table.TARGETS", ROWS)


def section(name: str) -> DeploySection:
    return ROWS[name].section.model_validate({"target": name, **EXAMPLES.get(name, {})})


def wanted(name: str, site: Site, tmp_path: Path) -> Target:
    return target_for(section(name), tmp_path, site)


@every_target
def test_a_target_is_a_folder_with_its_section_placement_and_implementation(name: str) -> None:
    folder = PACKAGE / "targets" / name.replace("-", "_")
    assert {"section.py", "placement.py", "target.py"} <= {path.name for path in folder.glob("*.py")}
    assert TARGETS[name].section.__module__ == f"orchestrator.targets.{folder.name}.section"
    assert TARGETS[name].implementation.startswith(f"orchestrator.targets.{folder.name}.target:")


@every_target
def test_a_target_is_documented_in_the_manual_of_the_spec(name: str) -> None:
    manual = (PACKAGE.parent / "docs" / "spec.md").read_text("utf-8")
    assert f"`{name}`" in manual
    documented = {
        key for cell in re.findall(r"^\| (`[^|]+`) \|", manual, re.MULTILINE) for key in cell.strip("`").split("`, `")
    }
    keys = {field.alias or key for key, field in TARGETS[name].section.model_fields.items()}
    assert keys <= documented


def test_the_spec_takes_every_target_of_the_table() -> None:
    assert get_args(DeployTarget) == tuple(TARGETS)


@every_row
def test_a_target_has_everything_that_the_protocol_requires(name: str) -> None:
    implementation = ROWS[name].load()
    for member in MEMBERS:
        asked, brought = inspect.getattr_static(Target, member), inspect.getattr_static(implementation, member, None)
        assert type(brought) is type(asked), member
        if inspect.isfunction(asked):
            assert list(inspect.signature(brought).parameters) == list(inspect.signature(asked).parameters), member


@every_row
def test_the_state_finds_the_place_again(name: str, site: Site, tmp_path: Path) -> None:
    target = wanted(name, site, tmp_path)
    kept = PlacementRecord.model_validate_json(target.placement.model_dump_json())
    again = target_at(kept, site)
    assert again.placement == target.placement
    assert again.is_at(target.placement)
    others = [wanted(other, site, tmp_path).placement for other in ROWS if other != name]
    assert not any(again.is_at(other) for other in others)


@every_row
@pytest.mark.parametrize(
    ("changes", "code"), [({"version": 99}, "E705"), ({"version": 0}, "E705"), ({"settings": {"more": 1}}, "E704")]
)
def test_a_placement_that_cannot_be_read_is_refused(
    name: str, changes: dict[str, Any], code: str, site: Site, tmp_path: Path
) -> None:
    placement = wanted(name, site, tmp_path).placement.model_copy(update=changes)
    with pytest.raises(StoreFailed) as refused:
        target_at(placement, site)
    assert refused.value.diagnostics[0].code == code
    assert refused.value.diagnostics[0].remedy


def test_a_target_that_this_version_does_not_have_is_named(site: Site) -> None:
    with pytest.raises(StoreFailed) as refused:
        target_at(PlacementRecord(target="moon", version=1, settings={}), site)
    assert "`moon`" in refused.value.diagnostics[0].message


@every_row_here
def test_what_was_never_started_is_stopped_with_a_reason(name: str, site: Site, tmp_path: Path) -> None:
    target = wanted(name, site, tmp_path)
    observed = target.observe()
    assert (observed.running, observed.health, observed.revision) == (False, "stopped", None)
    assert observed.reason
    assert target.history() == ()
    target.stop()


@every_row
def test_a_target_has_texts_for_the_commands(name: str, site: Site, tmp_path: Path) -> None:
    words = wanted(name, site, tmp_path).describe()
    assert all((words.where, words.label, words.in_use, words.removal, words.removed))
    assert "digits" in words.removal


def test_one_folder_or_port_is_of_one_deployment_only(tmp_path: Path) -> None:
    def claims(target: str, **keys: Any) -> list[str]:
        return list(
            TARGETS[target].section.model_validate({"target": target, **keys}).claims(tmp_path / "specs").values()
        )

    assert claims("gitops", path="../git/digits") == [f"the folder {tmp_path}/git/digits"]
    assert claims("folder", path=f"{tmp_path}/git/digits") == claims("gitops", path="../git/digits")
    (tmp_path / "link").symlink_to("git")
    assert claims("gitops", path="../link/digits") == claims("gitops", path="../git/digits")
    assert claims("local", port=8080) == ["port 8080 of this machine"]
    assert claims("docker", port=8080) != claims("docker", port=8080, address="10.0.0.7")
    assert claims("local") == claims("docker") == claims("kubernetes") == []


@every_row_here
def test_a_target_that_cannot_split_traffic_says_so(name: str, site: Site, tmp_path: Path) -> None:
    target = wanted(name, site, tmp_path)
    target.check()
    with pytest.raises(DeployFailed) as refused:
        target.split(1, 0.5)
    assert refused.value.diagnostics[0].code == "E623"
    assert "0.5" in refused.value.diagnostics[0].cause
    assert refused.value.diagnostics[0].remedy.startswith("ask for 1.0")
