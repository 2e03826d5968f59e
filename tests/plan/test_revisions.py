"""A step's revision is beside its function: raising it repeats that step, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from orchestrator.backends.table import backends_of
from orchestrator.engine.observing import observe_here
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.optimize.transform import Unsupported
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.plan.keys import key_parts, step_key
from orchestrator.plan.steps import benchmark, release
from orchestrator.plan.steps import select as selecting
from orchestrator.plan.steps import verify as verifying
from orchestrator.plan.steps.source import inspect_step
from orchestrator.spec.load import LoadedSpec, load_spec

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: %s, weights: model.bin}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
optimize: {formats: [onnx, torchscript], precisions: [fp32, int8, bf16]}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSpec:
    return spec(tmp_path, "torchscript")


def spec(folder: Path, kind: str) -> LoadedSpec:
    (folder / "model.bin").write_bytes(b"a model")
    (folder / "spec.yaml").write_text(SPEC % kind, encoding="utf-8")
    return load_spec(folder / "spec.yaml")


def keys(loaded: LoadedSpec) -> dict[str, str]:
    """The part of each step's key that does not depend on what ran before it."""
    plan = compile_plan(loaded, planned_model(loaded, None), observe_here(loaded))
    return {step.id: step_key(key_parts(step, {}, {}, plan.here)) for step in plan.steps}


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {step for step in before if before[step] != after[step]}


def test_a_new_revision_of_one_converter_leaves_the_others_results(
    loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(loaded)
    row = FORMATS["onnx"]
    transform = row.convert["torchscript"]
    assert not isinstance(transform, Unsupported)
    newer = MappingProxyType({**row.convert, "torchscript": replace(transform, revision=transform.revision + 1)})
    table = {**FORMATS, "onnx": replace(row, convert=newer)}
    monkeypatch.setattr("orchestrator.optimize.candidates.FORMATS", table)

    assert moved(before, keys(loaded)) == {"convert.onnx"}


def test_a_new_revision_of_one_precision_leaves_the_others_results(
    loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(loaded)
    row = FORMATS["onnx"]
    transform = row.precisions["int8"]
    assert not isinstance(transform, Unsupported)
    newer = MappingProxyType({**row.precisions, "int8": replace(transform, revision=transform.revision + 1)})
    table = {**FORMATS, "onnx": replace(row, precisions=newer)}
    monkeypatch.setattr("orchestrator.optimize.candidates.FORMATS", table)

    assert moved(before, keys(loaded)) == {"optimize.onnx-int8"}


def test_a_new_revision_of_one_source_repeats_its_import(loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(loaded)
    row = SOURCES["torchscript"]
    monkeypatch.setitem(SOURCES, "torchscript", replace(row, check_revision=row.check_revision + 1))

    assert moved(before, keys(loaded)) == {"import"}


def test_reading_a_source_has_its_own_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = spec(tmp_path, "onnx")
    row = SOURCES["onnx"]
    monkeypatch.setitem(SOURCES, "onnx", replace(row, inspect_revision=row.inspect_revision + 5))

    step = inspect_step(loaded, observe_here(loaded))

    assert step is not None
    assert step.revision == row.inspect_revision + 5


@pytest.mark.parametrize(
    ("module", "constant", "steps"),
    [
        (verifying, "VERIFY", {"verify.onnx-fp32", "verify.onnx-int8", "verify.torchscript-fp32", "verify.torchscript-bf16",
                                *(f"verify.onnx-{each}@{name}" for each in ("fp32", "int8") for name in backends_of("onnx")[1:])}),
        (benchmark, "BENCHMARK_RUNTIME", {"benchmark.runtime"}),
        (benchmark, "BENCHMARK_SERVER", {"benchmark.server"}),
        (selecting, "SELECT", {"select"}),
        (release, "RENDER", {"render"}),
    ],
)  # fmt: skip
def test_steps_of_no_table_have_theirs_too(
    loaded: LoadedSpec, monkeypatch: pytest.MonkeyPatch, module: object, constant: str, steps: set[str]
) -> None:
    before = keys(loaded)
    monkeypatch.setattr(module, constant, 99)

    assert moved(before, keys(loaded)) == steps


def test_another_service_level_renders_nothing_new(loaded: LoadedSpec) -> None:
    file = Path(loaded.document.file)
    written = file.read_text(encoding="utf-8")
    before, after = (
        keys(load_spec(_with(file, f"{written}slo: {{p99_latency: {limit}}}\n"))) for limit in ("10ms", "9ms")
    )
    assert "select" in moved(before, after)
    assert "render" not in moved(before, after)


def _with(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file
