"""Every runtime option that a backend declares reaches what is measured and what is rendered; every other is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.backends.table import BACKENDS, backend
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.server.config import load_config
from orchestrator.server.onnxruntime_session import open_session
from orchestrator.steps.context import StepError
from orchestrator.steps.runtime_options import Batching, RuntimeOptions, session_options
from tests.backends.conftest import SettingsFor

CHANGED: dict[str, Any] = {
    "threads": 3,
    "instances": 2,
    "graph_optimization": "basic",
    "execution_provider": "AnotherExecutionProvider",
    "spinning": True,
    "memory_arena": False,
}
DECLARED = [(name, option) for name in BACKENDS for option in sorted(backend(name).options - {"batching"})]


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """A variant that doubles rows of three numbers."""
    folder = tmp_path / "doubling"
    folder.mkdir()
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), folder / "model.onnx"
    )
    variant_facts(format="onnx").write(folder)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[onnxruntime.InferenceSession]]:
    """The sessions of ONNX Runtime that are opened."""
    sessions: list[onnxruntime.InferenceSession] = []
    real = onnxruntime.InferenceSession

    def remember(*arguments: Any, **options: Any) -> onnxruntime.InferenceSession:
        sessions.append(real(*arguments, **options))
        return sessions[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", remember)
    yield sessions
    sessions.clear()


def written(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("name", "option"), DECLARED)
def test_a_declared_option_changes_the_rendered_folder(
    name: str, option: str, settings_for: SettingsFor, placeholder_variant: Path, tmp_path: Path
) -> None:
    if backend(name).runtimes.keys() == {"saved-model"}:
        np.savez(tmp_path / "samples.npz", x=np.ones((4, 3), np.float32))
    folders = []
    for number, options in enumerate((RuntimeOptions(), RuntimeOptions(**{option: CHANGED[option]}))):
        folder = tmp_path / str(number)
        folder.mkdir()
        backend(name).write_folder(settings_for(name, cpus=4.0, options=options), placeholder_variant, folder)
        folders.append(written(folder))
    assert folders[0] != folders[1]


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_declares_options_that_exist(name: str) -> None:
    assert backend(name).options <= {*CHANGED, "batching"}
    assert BACKENDS[name].served or "batching" not in backend(name).options


def test_the_measured_session_and_the_server_are_opened_with_the_options(
    doubling: Path, tmp_path: Path, settings_for: SettingsFor, opened: list[onnxruntime.InferenceSession]
) -> None:
    options = RuntimeOptions(threads=2, instances=2, graph_optimization="basic", spinning=True, memory_arena=False)
    settings = settings_for("onnxruntime", cpus=4.0, options=options)
    (tmp_path / "served").mkdir()
    backend("onnxruntime").write_folder(settings, doubling, tmp_path / "served")

    open_onnx(doubling, settings.signature, options.threads_of(4), **session_options(options))  # type: ignore[arg-type] # literals
    config = load_config(tmp_path / "served" / "server.json")
    assert (config.instances, config.threads) == (2, 4)
    open_session(config, None, config.threads or 0, ())

    for session in opened:
        how = session.get_session_options()
        assert how.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        assert how.intra_op_num_threads == 2
        assert how.get_session_config_entry("session.intra_op.allow_spinning") == "1"
        assert not how.enable_cpu_mem_arena
    assert len(opened) == 2


def test_a_provider_that_is_not_there_is_not_replaced_by_another(
    doubling: Path, tmp_path: Path, settings_for: SettingsFor
) -> None:
    options = RuntimeOptions(execution_provider="AnotherExecutionProvider")
    settings = settings_for("onnxruntime", options=options)
    with pytest.raises(StepError, match="has no AnotherExecutionProvider"):
        open_onnx(doubling, settings.signature, 1, **session_options(options))  # type: ignore[arg-type] # literals
    (tmp_path / "served").mkdir()
    backend("onnxruntime").write_folder(settings, doubling, tmp_path / "served")
    assert load_config(tmp_path / "served" / "server.json").provider == "AnotherExecutionProvider"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"threads": 0}, "at least 1"),
        ({"execution_provider": "../CUDA"}, "is not the name of an execution provider"),
        ({"graph_optimization": "most"}, "one of all, extended, basic, disabled"),
        ({"batching": (0, 0.0)}, "max_size is at least 1"),
        ({"batching": (8, -1.0)}, "max_delay is at least 0"),
    ],
)
def test_options_are_checked_when_they_are_made(options: dict[str, Any], reason: str) -> None:
    def make() -> RuntimeOptions:
        made: dict[str, Any] = {
            name: Batching(*value) if name == "batching" else value for name, value in options.items()
        }
        return RuntimeOptions(**made)

    with pytest.raises(ValueError, match=reason):
        make()
