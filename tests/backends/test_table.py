"""What every row of the table of backends must do; a new backend meets these first."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.backend import ServingBackend, ServingSettings
from orchestrator.backends.folder import MODEL_FILES
from orchestrator.backends.table import BACKENDS, SERVERS, backend, backends_of, serving_backend

every_backend = pytest.mark.parametrize("name", sorted(BACKENDS))
every_server = pytest.mark.parametrize("name", sorted(SERVERS))


def _contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@every_backend
def test_it_states_its_name_and_its_formats(name: str) -> None:
    chosen = backend(name)
    assert chosen.name == name
    assert chosen.formats
    assert set(chosen.formats) <= set(MODEL_FILES)
    assert chosen.tools
    assert chosen.least_startup >= 60, "a fast start here says little about a node with a cold disk"


def test_each_format_has_a_backend_and_a_default_one() -> None:
    for format_name in MODEL_FILES:
        assert backends_of(format_name), format_name
        assert all(format_name in backend(name).formats for name in backends_of(format_name))
    assert backends_of("onnx")[0] == "onnxruntime"


@every_backend
def test_its_row_agrees_with_its_attributes(name: str) -> None:
    row, chosen = BACKENDS[name], backend(name)
    assert row.formats == chosen.formats
    assert row.served == isinstance(chosen, ServingBackend)


@pytest.mark.processes
def test_the_table_imports_no_backend() -> None:
    """The spec takes the names from it, so every command would."""
    script = (
        "import sys, orchestrator.backends.table; print(*(m for m in sys.modules if m.startswith('orchestrator.')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"orchestrator.backends", "orchestrator.backends.table"}


@every_server
def test_the_signature_is_read_from_its_folder(
    name: str, settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path
) -> None:
    settings = settings_for(name)
    serving_backend(name).write_folder(settings, placeholder_variant, tmp_path / "serving")
    assert serving_backend(name).signature(tmp_path / "serving", settings.name) == settings.signature


@every_backend
def test_it_says_how_a_variant_of_each_format_is_opened_without_a_server(name: str) -> None:
    chosen = backend(name)
    assert set(chosen.runtimes) == set(chosen.formats)
    for opener in chosen.runtimes.values():
        module, _, function = opener.function.partition(":")
        found = importlib.util.find_spec(module)
        assert found is not None, module
        assert found.origin is not None, module
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert opener.tools


@every_backend
def test_equal_settings_give_equal_bytes_and_modes(
    name: str, settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        backend(name).write_folder(settings_for(name), placeholder_variant, folder)
    first, second = map(_contents, folders)
    assert first == second
    assert {mode for mode, _ in first.values()} == {0o644}


@every_backend
def test_a_variant_without_its_model_file_is_refused(
    name: str, settings_for: Callable[..., ServingSettings], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no (model\.|saved_model)"):
        backend(name).write_folder(settings_for(name), tmp_path / "empty", tmp_path / "folder")


@every_server
def test_it_starts_on_loopback_with_the_threads_it_is_given(
    name: str, settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path
) -> None:
    folder, scratch = tmp_path / "serving", tmp_path / "scratch"
    scratch.mkdir()
    serving_backend(name).write_folder(settings_for(name), placeholder_variant, folder)
    launch = serving_backend(name).launch(folder, port=18080, scratch=scratch, threads=3)
    assert launch.cwd == scratch
    assert "18080" in launch.argv
    assert "3" in (*launch.argv, *launch.env.values())
    assert "0.0.0.0" not in launch.argv


@every_server
@pytest.mark.parametrize("devices", [0, 2])
def test_a_folder_says_how_many_devices_it_is_served_with(
    name: str, devices: int, settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path
) -> None:
    serving_backend(name).write_folder(settings_for(name, devices=devices), placeholder_variant, tmp_path / "serving")
    chosen = serving_backend(name)
    if chosen.refuses_on_cuda(chosen.formats[0], "fp32", 1) is not None:
        devices = 0  # it runs on CPUs alone
    assert chosen.devices(tmp_path / "serving") == devices


@every_server
def test_a_damaged_folder_is_refused_before_it_is_started(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        serving_backend(name).devices(tmp_path)
    for file in ("server.json", "config.properties"):
        (tmp_path / file).write_text("[]")
    with pytest.raises(ValueError, match=r"server\.json|config\.properties"):
        serving_backend(name).devices(tmp_path)


@pytest.mark.parametrize("name", [name for name in sorted(SERVERS) if name != "torchserve"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": None}, "has no format, but this version of mlo reads format 2"),
        ({"format": 3}, "has the format 3, but this version of mlo reads format 2"),
        ({"devices": "two"}, r"server\.json is damaged: devices"),
        ({"another": 1}, r"server\.json is damaged: another"),
    ],
    ids=["no format", "another format", "another type", "another key"],
)
def test_another_versions_settings_are_refused_before_a_rollback_starts_them(
    name: str,
    change: dict[str, Any],
    told: str,
    settings_for: Callable[..., ServingSettings],
    placeholder_variant: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "serving"
    serving_backend(name).write_folder(settings_for(name), placeholder_variant, folder)
    document = {**json.loads((folder / "server.json").read_bytes()), **change}
    kept = {key: value for key, value in document.items() if value is not None}
    (folder / "server.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        serving_backend(name).devices(folder)
    with pytest.raises(ValueError, match=told):
        serving_backend(name).signature(folder, settings_for(name).name)


@every_backend
def test_an_unknown_name_is_a_key_error(name: str) -> None:
    with pytest.raises(KeyError):
        backend(name + "-2")


def test_a_backend_without_a_server_is_not_a_serving_backend() -> None:
    with pytest.raises(KeyError):
        serving_backend("litert")
