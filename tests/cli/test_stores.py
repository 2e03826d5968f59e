"""Which store a command uses, from whichever folder it is run, and that a name is served from one of them only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.store.locks import lock
from orchestrator.store.served import ServedName, claim
from tests.cli.conftest import run_mlo, store_with_digits

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.processes

In = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def repository(project: Path) -> Path:
    """A repository with the digits example in a folder of it, and a folder beside."""
    root = project / "repository"
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (root / "elsewhere").mkdir()
    (root / "specs").mkdir()
    for file in project.glob("digits*"):
        shutil.copy(file, root / "specs" / file.name)
    return root


@pytest.fixture
def mlo_in(project: Path) -> In:
    """Run `mlo ARGUMENTS` in a folder, without MLO_HOME."""

    def run(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != "MLO_HOME"}
        return run_mlo(folder, *arguments, code=code, env={**env, "XDG_CACHE_HOME": f"{project}-cache"})

    return run


def test_every_folder_of_a_repository_has_the_same_store(mlo_in: In, repository: Path) -> None:
    store = repository / ".mlo"
    nothing = f"nothing is deployed from {store}; try: mlo apply SPEC\n"
    assert mlo_in(repository / "elsewhere", "status").stdout == nothing
    assert not store.exists(), "a look makes no store"

    assert f"store: {store} (new)\n" in mlo_in(repository / "elsewhere", "plan", "../specs/digits.yaml").stderr
    _deployed(store)
    for folder in (repository, repository / "specs", repository / "elsewhere"):
        assert "(new)" not in mlo_in(folder, "plan", str(repository / "specs" / "digits.yaml")).stderr
        told = mlo_in(folder, "status", code=1).stdout
        assert told.startswith(f"store: {store}\n")
        assert "digits  local" in told
    assert sorted(path.parent for path in repository.rglob(".mlo")) == [repository]


def test_a_spec_of_another_repository_is_kept_in_that_one(mlo_in: In, repository: Path, project: Path) -> None:
    outside = project / "outside"
    outside.mkdir()
    mlo_in(outside, "plan", str(repository / "specs" / "digits.yaml"), "--out", "digits.plan.json")
    assert (repository / ".mlo").is_dir()
    assert not (outside / ".mlo").exists()


def _deployed(root: Path) -> ServedName:
    """What a store that has deployed `digits` here holds, without its processes."""
    home = store_with_digits(root)
    (home.deployments / "digits").mkdir()
    return ServedName(name="digits", store=str(root), lock=str(home.deployments / "digits" / "supervisor.lock"))


def test_a_name_that_another_store_serves_is_refused_before_anything_runs(
    mlo: Mlo, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{project}-cache")
    served = _deployed(project / "first" / ".mlo")
    with lock(Path(served.lock), timeout=0, info={}), claim(served):
        told = mlo("apply", "digits.yaml", "--yes", code=1).stderr
        assert "error[E624]: another store of this machine serves `digits`" in told
        assert f"the store {served.store} serves it" in " ".join(told.split())
        assert f"MLO_HOME={served.store} mlo destroy digits" in " ".join(told.split())
        assert "started" not in told.replace("inspect: started", "")

        told = mlo("status").stderr
        assert f"another store serves digits: MLO_HOME={served.store} mlo status" in told
        told = mlo("destroy", "digits", "--yes", code=64).stderr
        assert f"another store serves it: MLO_HOME={served.store}" in " ".join(told.split())
        # To have both, another name here.
        assert "E624" in mlo("plan", "digits.yaml").stderr
        (project / "digits.yaml").write_text(
            (project / "digits.yaml").read_text().replace("name: digits", "name: figures", 1)
        )
        told = mlo("plan", "digits.yaml").stderr
        assert "E624" not in told
    assert "another store" not in mlo("status").stderr
