"""The location of the store, its permissions, and the messages if it cannot be used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.errors import StoreFailed
from orchestrator.store import anchor
from orchestrator.store.home import LAYOUT, Home
from orchestrator.store.store import Store


def test_the_environment_says_where_the_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    assert Home.find(tmp_path, {"MLO_HOME": ""}).root == tmp_path / ".mlo"
    assert Home.find(tmp_path, {"MLO_HOME": "kept/here"}).root == tmp_path / "kept" / "here"
    assert Home.find(tmp_path, {"MLO_HOME": "/srv/mlo"}).root == Path("/srv/mlo")
    assert Home.find(tmp_path, {"MLO_HOME": "~/mlo"}).root == Path.home() / "mlo"


def _repository(root: Path) -> Path:
    (root / ".git").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return root


def test_the_home_is_at_the_root_of_the_repository_from_every_folder_of_it(tmp_path: Path) -> None:
    root = _repository(tmp_path / "repo")
    deep = root / "specs" / "digits"
    (deep / ".mlo").mkdir(parents=True)
    for folder in (root, deep, root / "not" / "there"):
        assert Home.find(folder, {}).root == root / ".mlo"


def test_a_linked_work_tree_and_a_repository_in_another_have_homes_of_their_own(tmp_path: Path) -> None:
    inner = _repository(_repository(tmp_path / "repo") / "vendor" / "inner")
    linked = tmp_path / "repo" / "linked"
    linked.mkdir()
    (linked / ".git").write_text("gitdir: ../.git/worktrees/linked\n")
    assert Home.find(inner, {}).root == inner / ".mlo"
    assert Home.find(linked, {}).root == linked / ".mlo"


def test_outside_of_a_repository_the_nearest_home_counts_or_the_folder_itself(tmp_path: Path) -> None:
    deep = tmp_path / "models" / "digits"
    deep.mkdir(parents=True)
    (tmp_path / ".git").mkdir()  # an empty folder is no repository
    assert Home.find(deep, {}).root == deep / ".mlo"
    (tmp_path / "models" / ".mlo").mkdir()
    assert Home.find(deep, {}).root == tmp_path / "models" / ".mlo"


def test_a_link_to_a_folder_has_the_home_of_that_folder(tmp_path: Path) -> None:
    root = _repository(tmp_path / "repo")
    (tmp_path / "link").symlink_to(root)
    assert Home.find(tmp_path / "link", {}).root == root / ".mlo"


def test_what_another_user_left_above_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = _repository(tmp_path / "shared") / "own"
    own.mkdir()
    (tmp_path / ".mlo").mkdir()
    strangers = {tmp_path / "shared" / ".git", tmp_path / ".mlo"}
    owner = anchor._owner
    monkeypatch.setattr(anchor, "_owner", lambda path: 4711 if path in strangers else owner(path))
    assert Home.find(own, {}).root == own / ".mlo"
    # A checkout that belongs to somebody else as a whole, as in a container, is one project all the same.
    monkeypatch.setattr(anchor, "_owner", lambda path: 4711)
    assert Home.find(own, {}).root == tmp_path / "shared" / ".mlo"


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
def test_a_home_that_cannot_be_made_is_reported_with_what_to_do(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFailed) as caught:
        Home(tmp_path / place).prepare()
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.code == "E702"
    assert str(tmp_path / place) in diagnostic.message
    assert diagnostic.cause
    assert "MLO_HOME" in diagnostic.remedy


def _old_home(root: Path) -> Home:
    """As a version of mlo that knew no layouts left it."""
    home = Home(root)
    home.trees.mkdir(parents=True)
    home.receipts.mkdir()
    (home.receipts / "key.json").write_text("{}")
    return home


def test_a_home_says_its_layout(tmp_path: Path) -> None:
    home = Home(tmp_path / ".mlo")
    for _ in range(2):
        home.prepare()
    assert home.layout_file.read_text() == f"layout {LAYOUT}, made by mlo {__version__}\n"


def test_a_home_that_was_begun_and_not_finished_is_a_new_one(tmp_path: Path) -> None:
    home = Home(tmp_path / ".mlo")
    home.root.mkdir()
    home.prepare()
    assert home.trees.is_dir()


@pytest.mark.parametrize(
    ("layout", "cause", "remedy"),
    [
        (None, f"it has layout 1, and mlo {__version__} reads layout {LAYOUT}", "then remove the folder"),
        ("layout 1, made by mlo 0.1.0\n", "it has layout 1", "destroy them with the version that created them"),
        ("layout 99, made by mlo 9.0.0\n", "it is layout 99, made by mlo 9.0.0", "use the newer version of mlo"),
        ("", "does not name a layout: ''", "restore"),
        ("layout x", "does not name a layout: 'layout x'", "restore"),
    ],
)
def test_a_home_of_another_layout_is_refused_and_left_as_it_is(
    tmp_path: Path, layout: str | None, cause: str, remedy: str
) -> None:
    home = _old_home(tmp_path / ".mlo")
    if layout is not None:
        home.layout_file.write_text(layout)
    before = sorted(home.root.rglob("*"))
    with pytest.raises(StoreFailed) as caught:
        Store.open(home)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E715"
    assert str(home.root) in diagnostic.message
    assert cause in diagnostic.cause
    assert remedy in diagnostic.remedy
    assert "MLO_HOME" in diagnostic.remedy
    assert sorted(home.root.rglob("*")) == before


def test_a_state_alone_makes_a_home_an_old_one(tmp_path: Path) -> None:
    home = Home(tmp_path / ".mlo")
    home.root.mkdir()
    home.state_file.write_text("{}")
    with pytest.raises(StoreFailed, match="another version of mlo"):
        home.prepare()


@pytest.mark.processes
def test_the_store_imports_the_standard_library_and_pydantic_only() -> None:
    script = (
        "import sys\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import importlib, pkgutil, orchestrator.store\n"
        "for module in pkgutil.iter_modules(orchestrator.store.__path__):\n"
        "    importlib.import_module('orchestrator.store.' + module.name)\n"
        "roots = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(roots - before - sys.stdlib_module_names - {'orchestrator'}))\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    # pydantic and what pydantic itself needs
    allowed = {"annotated_types", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
    loaded = {name for name in run.stdout.split() if not name.startswith("_sysconfigdata")}
    assert loaded <= allowed
