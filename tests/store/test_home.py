"""Where things are kept, who may see them, and what is said when they cannot be kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store.home import Home


def test_the_home_is_beside_the_command_or_where_the_environment_says(tmp_path: Path) -> None:
    assert Home.find(tmp_path, {}).root == tmp_path / ".mlo"
    assert Home.find(tmp_path, {"MLO_HOME": ""}).root == tmp_path / ".mlo"
    assert Home.find(tmp_path, {"MLO_HOME": "kept/here"}).root == tmp_path / "kept" / "here"
    assert Home.find(tmp_path, {"MLO_HOME": "/srv/mlo"}).root == Path("/srv/mlo")
    assert Home.find(tmp_path, {"MLO_HOME": "~/mlo"}).root == Path.home() / "mlo"


def test_a_prepared_home_is_its_users_alone_and_neither_committed_nor_backed_up(tmp_path: Path) -> None:
    home = Home(tmp_path / "new" / ".mlo")
    for _ in range(2):
        home.prepare()
    assert (home.root / ".gitignore").read_text() == "*\n"
    assert (home.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    folders = [home.root, home.trees, home.receipts, home.scratch, home.locks, home.logs, home.deployments]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    assert not home.state_file.exists()


@pytest.mark.parametrize("place", ["file", "file/.mlo", "/proc/mlo"])
def test_a_home_that_cannot_be_made_is_told_with_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFailed) as caught:
        Home(tmp_path / place).prepare()
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.code == "E702"
    assert str(tmp_path / place) in diagnostic.message
    assert diagnostic.cause
    assert "MLO_HOME" in diagnostic.remedy


def test_the_store_imports_the_standard_library_only() -> None:
    script = (
        "import importlib, pkgutil, sys, orchestrator.store\n"
        "for module in pkgutil.iter_modules(orchestrator.store.__path__):\n"
        "    importlib.import_module('orchestrator.store.' + module.name)\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(roots - sys.stdlib_module_names - {'orchestrator', '__main__'}))\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-S", "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
