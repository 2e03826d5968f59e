"""A name is served by one store of a user; entries of processes that are gone do not count."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.store.locks import lock
from orchestrator.store.served import ServedName, claim, forget_served, served_by_others


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def _store(tmp_path: Path, name: str) -> ServedName:
    store = tmp_path / name / ".mlo"
    (store / "deployments" / "digits").mkdir(parents=True, exist_ok=True)
    return ServedName(name="digits", store=str(store), lock=str(store / "deployments" / "digits" / "supervisor.lock"))


def test_another_store_learns_who_serves_a_name_as_long_as_it_does(tmp_path: Path) -> None:
    first, second = _store(tmp_path, "first"), _store(tmp_path, "second")
    with lock(Path(first.lock), timeout=0, info={}):
        with claim(first) as other:
            assert other is None
        with claim(second) as other:
            assert other == first
        assert served_by_others(Path(second.store)) == [first]
        for name in ("other", "*", "../first", "/digits", ""):
            assert served_by_others(Path(second.store), name) == []
        assert served_by_others(Path(first.store)) == []
    assert served_by_others(Path(second.store)) == []
    with claim(second) as other:
        assert other is None


def test_a_store_by_another_path_is_the_same(tmp_path: Path) -> None:
    first = _store(tmp_path, "first")
    (tmp_path / "link").symlink_to(tmp_path / "first")
    with lock(Path(first.lock), timeout=0, info={}), claim(first):
        assert served_by_others(tmp_path / "link" / ".mlo") == []


def test_of_two_that_begin_at_once_one_gets_the_name(tmp_path: Path) -> None:
    given: list[str | None] = []
    release, held = threading.Event(), ExitStack()

    def begin(wanted: ServedName) -> None:
        with claim(wanted) as other:
            given.append(None if other is None else other.store)
            if other is None:
                held.enter_context(lock(Path(wanted.lock), timeout=0, info={}))
        release.wait(30)

    threads = [threading.Thread(target=begin, args=(_store(tmp_path, name),)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    while len(given) < 2:
        release.wait(0.01)
    release.set()
    for thread in threads:
        thread.join()
    held.close()
    assert given.count(None) == 1


def test_entries_that_nobody_needs_any_more_are_removed(tmp_path: Path, cache: Path) -> None:
    first, second = _store(tmp_path, "first"), _store(tmp_path, "second")
    for store in (first, second):
        with claim(store):
            pass
    forget_served("digits", first.store)
    (tmp_path / "second").rename(tmp_path / "moved")
    assert served_by_others(tmp_path) == []
    assert list((cache / "mlo" / "served" / "digits").glob("*.json")) == []


def test_without_a_users_folder_every_store_is_by_itself(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file")
    with claim(_store(tmp_path, "first")) as other:
        assert other is None
    assert served_by_others(tmp_path) == []
