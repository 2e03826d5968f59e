"""A release is compared by what its target uses of the rendered files."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.release.live import same_release
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.table import TARGETS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(Home(tmp_path / ".mlo"))


def _rendered(store: Store, tmp_path: Path, name: str, *, model: str = "weights", values: str = "memory: 96Mi") -> str:
    folder = tmp_path / name
    (folder / "serving").mkdir(parents=True)
    (folder / "serving" / "model.onnx").write_text(model, encoding="utf-8")
    (folder / "values.yaml").write_text(values, encoding="utf-8")
    return store.trees.commit(folder).digest


@pytest.mark.parametrize("target", ["local", "folder"])
def test_other_sizes_change_nothing_where_no_container_is_run(store: Store, tmp_path: Path, target: str) -> None:
    ignores = TARGETS[target].section.ignores
    before = _rendered(store, tmp_path, "before")
    resized = _rendered(store, tmp_path, "resized", values="memory: 128Mi")
    retrained = _rendered(store, tmp_path, "retrained", model="other weights")
    assert same_release(store, ignores, before, resized)
    assert not same_release(store, ignores, before, retrained)


def test_a_docker_engine_takes_the_image_and_its_limits_only(store: Store, tmp_path: Path) -> None:
    def rendered(name: str, changed: str = "") -> str:
        for file in ("chart/templates/service.yaml", "values.yaml", "compose.yaml", "README.md", "container.json"):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("other" if file == changed else "as before", encoding="utf-8")
        return store.trees.commit(tmp_path / name).digest

    ignores, before = TARGETS["docker"].section.ignores, rendered("before")
    for number, file in enumerate(("chart/templates/service.yaml", "values.yaml", "compose.yaml", "README.md")):
        assert same_release(store, ignores, before, rendered(f"other-{number}", file)), file
    assert not same_release(store, ignores, before, rendered("limits", "container.json"))


def test_where_all_is_used_every_file_counts(store: Store, tmp_path: Path) -> None:
    before = _rendered(store, tmp_path, "before")
    assert same_release(store, frozenset(), before, before)
    assert not same_release(store, frozenset(), before, _rendered(store, tmp_path, "resized", values="memory: 128Mi"))


def test_what_the_store_has_lost_is_like_nothing(store: Store, tmp_path: Path) -> None:
    before = _rendered(store, tmp_path, "before")
    assert not same_release(store, TARGETS["local"].section.ignores, before, "ab" * 32)
