"""`mlo doctor` shows what is available, what is missing and what that affects, changes nothing, and never hangs."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.backends.table import SERVERS
from orchestrator.doctor import machine as checkup_machine
from orchestrator.doctor.checkup import Check, in_time
from orchestrator.doctor.finding import Finding
from orchestrator.doctor.packages import extra_costs
from orchestrator.machine.control_groups import memory_limit
from tests.cli.conftest import ROOT, conforms
from tests.fake_engine import NO_ENGINE, fake_engine

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.processes


def looked_at(mlo: Mlo, code: int = 0, **env: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(group, name) → the row."""
    document = json.loads(mlo("doctor", "--json", code=code, **env).stdout)
    conforms(document, "doctor")
    assert document["healthy"] is (code == 0)
    return {(row["group"], row["name"]): row for row in document["checks"]}


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def only(tmp_path: Path) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "only"
    folder.mkdir()
    return folder


def test_every_extra_and_backend_has_a_row(mlo: Mlo) -> None:
    rows = looked_at(mlo)
    assert {name for group, name in rows if group == "backends"} == set(SERVERS)
    assert rows["packages", "torch"]["status"] == "ok"
    assert "safetensors" in rows["packages", "torch"]["found"]


def test_every_extra_says_what_is_missing_without_it() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [extra for extra in declared if extra not in {"all", "dev"} and not extra_costs(extra)] == []


def test_a_finding_that_is_not_ok_says_what_is_affected_and_what_to_do(mlo: Mlo, only: Path) -> None:
    for row in looked_at(mlo, PATH=str(only)).values():
        assert (row["status"] == "ok") == (not row["costs"]) == (not row["remedy"]), row


def test_with_an_empty_path_the_programs_are_missing_and_the_exit_code_is_0(mlo: Mlo, only: Path) -> None:
    rows = looked_at(mlo, PATH=str(only), DOCKER_HOST=NO_ENGINE)
    assert {name for (_, name), row in rows.items() if row["status"] == "missing"} >= {
        "docker",
        "helm",
        "kubectl",
        "torchserve",
    }
    # Kubernetes is deployed to by Helm and mlo's own client.
    assert "`mlo apply` does without kubectl" in rows["deployment", "kubectl"]["costs"]
    assert rows["deployment", "helm"]["costs"] == "nothing can be deployed to Kubernetes from here"
    assert rows["backends", "torchserve"]["remedy"] == "install a Java runtime, version 17 or later"


def test_nothing_is_changed(mlo: Mlo, project: Path) -> None:
    before = sorted(project.rglob("*"))
    mlo("doctor")
    assert sorted(project.rglob("*")) == before


def test_a_responding_engine_and_cluster_are_shown_with_their_versions(mlo: Mlo, only: Path) -> None:
    versions = '{"clientVersion": {"gitVersion": "v1.32.4"}, "serverVersion": {"gitVersion": "v1.31.0"}}'
    program(only, "kubectl", f"echo '{versions}'")
    program(only, "helm", "echo v4.0.1")
    with fake_engine() as engine:
        rows = looked_at(mlo, PATH=str(only), DOCKER_HOST=engine.host)
    assert rows["deployment", "docker"]["found"] == "Docker Engine 27.5 is running"
    assert rows["deployment", "cluster"]["found"] == "Kubernetes v1.31.0 is reachable"
    assert rows["deployment", "helm"]["found"] == "v4.0.1"


def test_an_engine_that_refuses_says_why(mlo: Mlo, only: Path) -> None:
    with fake_engine() as engine:
        engine.refuses = "the daemon is shutting down"
        row = looked_at(mlo, PATH=str(only), DOCKER_HOST=engine.host)["deployment", "docker"]
    assert row["status"] == "missing"
    assert row["found"] == "the daemon is shutting down"


def test_a_cluster_that_never_answers_does_not_delay_other_checks(mlo: Mlo, only: Path) -> None:
    program(only, "kubectl", "exec /bin/sleep 60")
    rows = looked_at(mlo, PATH=str(only))
    assert rows["deployment", "cluster"]["found"] == "no answer within 4 s"
    assert rows["machine", "cpus"]["found"]


def test_a_check_that_hangs_is_a_row_that_says_so() -> None:
    from threading import Event

    found = in_time(
        {"machine": {"fast": lambda: [Finding("fast", "ok", "here")], "slow": lambda: [*([], Event().wait(5))[:0]]}},
        0.2,
    )
    assert [(row.name, row.status) for row in found["machine"]] == [("fast", "ok"), ("slow", "limited")]


@pytest.mark.parametrize("look", [checkup_machine.pinning, checkup_machine.isolation])
def test_a_check_whose_process_is_too_slow_is_a_row_that_says_so(look: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup_machine, "_SECONDS", 0.001)
    ((found,),) = in_time({"machine": {"look": look}}, 10.0).values()
    assert (found.name, found.status, found.found) == ("look", "limited", "no answer within 0.001 s")


def test_a_store_that_cannot_be_written_is_broken(mlo: Mlo, project: Path) -> None:
    (project / "file").write_text("not a folder")
    rows = looked_at(mlo, code=1, MLO_HOME=str(project / "file"))
    assert rows["machine", "store"]["status"] == "missing"
    assert "set MLO_HOME" in rows["machine", "store"]["remedy"]
    assert "mlo cannot work without: store" in mlo("doctor", code=1, MLO_HOME=str(project / "file")).stdout


def installed(folder: Path, *requirements: str) -> dict[str, str]:
    """The environment in which mlo is installed with these requirements."""
    about = folder / "mlo-9.dist-info"
    about.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {each}\n" for each in requirements)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mlo\nVersion: 9\n{lines}")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_a_package_that_every_command_needs_is_broken_when_it_is_missing(mlo: Mlo, tmp_path: Path) -> None:
    env = installed(tmp_path / "site", "click>=8.2", "not-there>=1")
    rows = looked_at(mlo, 1, **env)
    assert set(rows) == {("mlo", "python"), ("mlo", "mlo")}
    assert rows["mlo", "mlo"]["found"] == "not-there is not installed"


def test_an_extra_names_what_is_missing_and_what_is_too_old(mlo: Mlo, tmp_path: Path) -> None:
    env = installed(
        tmp_path / "site",
        "click>=8.2",
        'not-there>=1; extra == "torch"',
        'numpy>=2000.1; extra == "onnx"',
        'click>=8; extra == "grpc"',
    )
    rows = looked_at(mlo, 0, **env)
    torch, onnx, grpc = (rows["packages", name] for name in ("torch", "onnx", "grpc"))
    assert torch["status"] == "missing"
    assert torch["remedy"] == "pip install 'mlo[torch]'"
    assert "models of kind pytorch, torchscript, exported-program" in torch["costs"]
    assert onnx["status"] == "limited"
    assert "is older than 2000.1" in onnx["found"]
    assert onnx["remedy"] == "pip install --upgrade 'mlo[onnx]'"
    assert grpc["status"] == "ok"


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b", {"a/memory.max": "1000000", "a/b/memory.max": "max"}, 1_000_000),
        ("0::/a", {"memory.max": "max"}, None),
        ("3:memory:/a", {"memory/a/memory.limit_in_bytes": "2000000"}, 2_000_000),
        ("3:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("", {}, None),
    ],
)
def test_the_memory_limit_is_the_smallest_of_the_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert memory_limit(tmp_path / "groups", tmp_path / "mounted") == limit


def test_no_colour_without_a_terminal(mlo: Mlo) -> None:
    said = mlo("doctor").stdout
    assert "\x1b[" not in said
    assert " ok, " in said.splitlines()[-1] or said.splitlines()[-1].endswith(" ok")
