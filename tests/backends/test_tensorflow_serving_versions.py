"""Folders with several versions: their content, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.config import flag_values, read_models_config
from orchestrator.backends.tensorflow_serving.versions import (
    VersionError,
    apply_settings,
    move_label,
    rendered_version,
    served_versions,
    version_folder,
)

Rendered = Callable[..., Path]


@pytest.fixture
def rendered(settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path) -> Rendered:
    """`rendered(max_batch_size=4)`: a serving folder as `render` writes it."""

    def write(**changes: object) -> Path:
        folder = tmp_path / f"rendered-{len(list(tmp_path.iterdir()))}"
        settings = replace(settings_for("tensorflow-serving"), **changes)  # type: ignore[arg-type]
        TENSORFLOW_SERVING.write_folder(settings, placeholder_variant, folder)
        return folder

    return write


@pytest.fixture
def folder(rendered: Rendered, tmp_path: Path) -> Path:
    """Versions 1, 2 and 12, of which none is live yet."""
    made = tmp_path / "versions"
    for version in (1, 2, 12):
        version_folder(made, "tiny-model", version).mkdir(parents=True)
    version_folder(made, "tiny-model", 1).with_name(".tmp-13").mkdir()
    apply_settings(made, rendered())
    return made


def _labels(folder: Path) -> dict[str, int]:
    found = served_versions(folder)
    assert found is not None
    return dict(found.labels)


def test_a_folder_serves_every_version_in_it_and_is_watched(folder: Path, tmp_path: Path) -> None:
    found = served_versions(folder)
    assert found is not None
    assert (found.name, found.versions, found.live) == ("tiny-model", (1, 2, 12), None)
    models = read_models_config((folder / "models.config").read_text())
    assert (models.base, models.versions) == (f"{folder}/models/tiny-model", ())
    flags = flag_values((folder / "flags.txt").read_text().splitlines())
    assert flags["model_config_file"] == f"{folder}/models.config"
    assert flags["batching_parameters_file"] == f"{folder}/batching.config"
    assert int(flags["file_system_poll_wait_seconds"]) > 0, "otherwise a version that comes later is never loaded"
    assert int(flags["model_config_file_poll_wait_seconds"]) > 0
    assert served_versions(tmp_path / "empty") is None


def test_a_folder_that_the_server_sees_elsewhere_says_so(rendered: Rendered, tmp_path: Path) -> None:
    made = tmp_path / "versions"
    made.mkdir()
    apply_settings(made, rendered(), seen_at=PurePosixPath("/models"))
    assert read_models_config((made / "models.config").read_text()).base == "/models/models/tiny-model"
    flags = flag_values((made / "flags.txt").read_text().splitlines())
    assert flags["monitoring_config_file"] == "/models/monitoring.config"


def test_labels_name_the_live_version_and_the_one_before(folder: Path) -> None:
    assert move_label(folder, 2).labels == {"stable": 2}
    assert move_label(folder, 12).labels == {"stable": 12, "previous": 2}
    assert move_label(folder, 12).labels == {"stable": 12, "previous": 2}, "again changes nothing"
    assert move_label(folder, 2).labels == {"stable": 2, "previous": 12}
    assert move_label(folder, 1, kept=(1, 12)).labels == {"stable": 1}, "a version that goes keeps no label"


def test_settling_keeps_labels_and_says_when_a_server_has_to_be_restarted(folder: Path, rendered: Rendered) -> None:
    move_label(folder, 12)
    assert apply_settings(folder, rendered()) is False
    assert apply_settings(folder, rendered(max_batch_size=4)) is True
    assert "max_execution_batch_size {\n  value: 4\n}" in (folder / "batching.config").read_text()
    assert apply_settings(folder, rendered(max_batch_size=1)) is True
    assert not (folder / "batching.config").exists()
    assert "--enable_batching=false" in (folder / "flags.txt").read_text()
    assert apply_settings(folder, rendered(memory=2**32, max_batch_size=1)) is False
    assert _labels(folder) == {"stable": 12}


@pytest.mark.parametrize("version", [3, 13, 0, -1])
def test_a_version_that_is_not_there_gets_no_label(folder: Path, version: int) -> None:
    with pytest.raises(VersionError, match=f"has no version {version} of tiny-model, only 1, 2, 12"):
        move_label(folder, version)
    assert _labels(folder) == {}


def test_a_version_that_is_about_to_go_gets_no_label(folder: Path) -> None:
    with pytest.raises(VersionError, match="has no version 2 of tiny-model, only 1, 12"):
        move_label(folder, 2, kept=(1, 12))


def test_another_models_folder_is_not_changed(folder: Path, rendered: Rendered) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(VersionError, match="serves the model tiny-model, not other"):
        apply_settings(folder, rendered(name="other"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_foreign_configuration_is_not_overwritten(folder: Path, rendered: Rendered) -> None:
    (folder / "models.config").write_text("model_config_list {}\n")
    for call in (
        lambda: apply_settings(folder, rendered()),
        lambda: move_label(folder, 1),
        lambda: served_versions(folder),
    ):
        with pytest.raises(VersionError, match=r"models.config cannot be used: it is not a file that mlo writes"):
            call()
    assert (folder / "models.config").read_text() == "model_config_list {}\n"


def test_only_a_rendered_folder_is_accepted_as_one(folder: Path, rendered: Rendered, tmp_path: Path) -> None:
    good = rendered()
    assert rendered_version(good) == good / "models" / "tiny-model" / "1"
    with pytest.raises(VersionError, match="does not name exactly one version"):
        rendered_version(folder)
    with pytest.raises(VersionError, match=r"has no models\.config"):
        rendered_version(tmp_path)
