"""The effect of a platform's rules and of the target on a plan: its candidates and its notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.table import backends_of
from orchestrator.engine.observing import observe_here
from orchestrator.errors import SpecInvalid
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.plan.step import Plan
from orchestrator.spec.load import load_spec
from tests.artifacts.made import inspection

KERAS = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: keras, weights: model.keras}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
"""
TORCH = KERAS.replace("keras, weights: model.keras", "torchscript, weights: model.keras")
WEIGHTS = KERAS.replace("keras, weights: model.keras", "pytorch, weights: model.safetensors, factory: net:Net")
DEVICES = "optimize: {formats: [tflite]}\ndeploy: {target: folder, path: out}\n"
FOUND = inspection(
    {
        "inputs": [{"tensor": "image", "dtype": "float32", "shape": [None, 8]}],
        "outputs": [{"tensor": "logits", "dtype": "float32", "shape": [None, 10]}],
    }
)

Planned = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    (tmp_path / "model.keras").write_bytes(b"a model")
    (tmp_path / "model.safetensors").write_bytes(b"a model")
    (tmp_path / "net.py").write_text("Net = 1\n")
    monkeypatch.chdir(tmp_path)

    def planned(text: str, rules: str = "") -> Plan:
        if rules:
            Path("mlo-platform.yaml").write_text(f"apiVersion: mlo/v1\nkind: Platform\nrules:\n  {rules}\n", "utf-8")
        Path("spec.yaml").write_text(text, "utf-8")
        loaded = load_spec("spec.yaml")
        found = None if loaded.spec.model.source.kind in {"torchscript", "pytorch"} else FOUND
        return compile_plan(loaded, planned_model(loaded, found), observe_here(loaded))

    return planned


def backends(plan: Plan) -> set[str]:
    return {row["backend"] for row in plan.step("benchmark.server").params["candidates"]}


def test_backends_that_a_rule_does_not_name_are_not_tried(planned: Planned) -> None:
    plan = planned(TORCH, "backends: [onnxruntime, tensorflow-serving]")

    assert backends(plan) == {"onnxruntime"}
    refused = {r.candidate: r.reason for r in plan.refused}
    assert refused["torchscript-fp32"] == "the platform does not allow torchserve (mlo-platform.yaml:4)"


def test_a_rule_that_names_litert_alone_leaves_models_for_devices(planned: Planned) -> None:
    plan = planned(KERAS + "deploy: {target: folder, path: out}\n", "backends: [litert]")

    assert backends(plan) == {"litert"}
    assert {r.backend for r in plan.refused} == {*backends_of("onnx"), "tensorflow-serving"}


def test_a_rule_that_leaves_nothing_says_which_it_is(planned: Planned) -> None:
    with pytest.raises(SpecInvalid) as caught:
        planned(TORCH, "backends: [tensorflow-serving, litert]")

    (told,) = caught.value.diagnostics
    assert told.code == "E201"
    assert any("mlo-platform.yaml:4" in note for note in told.notes)


def test_a_wire_that_no_allowed_server_has_is_named_with_the_way_out(planned: Planned) -> None:
    with pytest.raises(SpecInvalid) as caught:
        planned(TORCH + "serving: {backend: torchserve, wire: binary}\n")

    (told,) = caught.value.diagnostics
    assert told.code == "E201"
    assert any("`serving.wire` is binary, but torchserve takes json" in note for note in told.notes)
    assert "`serving.wire: auto`" in told.remedy


def test_a_plan_for_devices_says_nothing_of_images(planned: Planned) -> None:
    def of_images(plan: Plan) -> list[str]:
        return [note for note in plan.notes if "base image" in note]

    assert of_images(planned(KERAS))
    assert not of_images(planned(KERAS + DEVICES))


@pytest.mark.parametrize(
    ("slo", "told"),
    [
        ("slo: {p99_latency: 50ms}\n", True),
        ("slo: {p99_latency: 50ms, enforce: false}\n", False),
        ("", False),
    ],
)
def test_a_service_level_that_nothing_can_prove_is_reported_before_anything_runs(
    planned: Planned, slo: str, told: bool
) -> None:
    plan = planned(KERAS + DEVICES + slo)

    assert any("`slo: {enforce: false}`" in note for note in plan.notes) == told
    assert bool(plan.step("benchmark.runtime").pointless) == told


@pytest.mark.parametrize(
    ("memory", "size", "refused"),
    [
        ("32Mi", 7, "its server needs at least 40 MiB before it loads a model, and `hardware.memory` is 32Mi"),
        ("64Mi", 100 * 2**20, "its weights alone have 100 MiB, and `hardware.memory` is 64Mi"),
        ("200Mi", 100 * 2**20, ""),
    ],
)
def test_too_little_memory_is_told_before_anything_is_made(
    planned: Planned, memory: str, size: int, refused: str
) -> None:
    with Path("model.safetensors").open("r+b") as weights:
        weights.truncate(size)
    text = WEIGHTS + f"hardware: {{memory: {memory}}}\noptimize: {{formats: [onnx], precisions: [fp32]}}\n"
    if not refused:
        assert backends(planned(text)) == set(backends_of("onnx"))
        return
    with pytest.raises(SpecInvalid) as caught:
        planned(text)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.remedy) == ("E201", "raise `hardware.memory`")
    assert f"onnx-fp32: {refused}: raise `hardware.memory`" in diagnostic.notes


def test_a_smaller_precision_of_large_weights_is_tried(planned: Planned) -> None:
    with Path("model.safetensors").open("r+b") as weights:
        weights.truncate(100 * 2**20)
    plan = planned(WEIGHTS + "hardware: {memory: 64Mi}\noptimize: {formats: [onnx], precisions: [fp32, int8]}\n")
    assert {row["precision"] for row in plan.step("benchmark.server").params["candidates"]} == {"int8"}


def test_a_file_that_may_hold_more_than_weights_says_nothing_of_their_size(planned: Planned) -> None:
    with Path("model.keras").open("r+b") as weights:
        weights.truncate(100 * 2**20)  # as after `fit`, with the state of an optimizer
    plan = planned(KERAS + "hardware: {memory: 64Mi}\noptimize: {formats: [onnx], precisions: [fp32]}\n")
    assert backends(plan) == set(backends_of("onnx"))


def test_whether_a_service_level_decides_changes_nothing_that_is_measured(planned: Planned) -> None:
    changed = {
        step.id
        for step in planned(KERAS + "slo: {p99_latency: 50ms}\n").steps
        if step.params != planned(KERAS + "slo: {p99_latency: 50ms, enforce: false}\n").step(step.id).params
    }

    assert changed == {"select"}


def test_a_candidate_with_a_server_can_prove_a_service_level_for_a_folder(planned: Planned) -> None:
    plan = planned(KERAS + "deploy: {target: folder, path: out}\nslo: {p99_latency: 50ms}\n")

    assert "onnxruntime" in backends(plan)
    assert not any("no server can be measured" in note for note in plan.notes)
