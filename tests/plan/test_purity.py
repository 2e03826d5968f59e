"""Compiling does not look at the machine: a fake machine gives the same plan while access to the real one fails."""

from __future__ import annotations

import builtins
import importlib.machinery
import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from orchestrator.backends.table import SERVERS
from orchestrator.engine.observing import observe_here
from orchestrator.machine.here import Here, ServerHere
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.plan.keys import key_parts
from orchestrator.plan.step import Plan
from orchestrator.spec.load import LoadedSpec, load_spec

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: pytorch, weights: digits.pt, factory: "digits_model:Digits"}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
  samples: samples.npz
slo: {p99_latency: 50ms}
hardware: {cpus: 2}
"""
LOOKS: list[tuple[ModuleType | type, str]] = [
    (builtins, "open"),
    (os, "stat"),
    (os, "lstat"),
    (os, "listdir"),
    (os, "scandir"),
    (os, "open"),
    (os, "sched_getaffinity"),
    (shutil, "which"),
    (subprocess, "run"),
    (subprocess, "Popen"),
    (importlib.metadata, "version"),
    (importlib.metadata, "packages_distributions"),
    (importlib.machinery.PathFinder, "find_spec"),
    (Path, "exists"),
    (Path, "is_file"),
    (Path, "is_dir"),
    (Path, "open"),
    (Path, "read_text"),
    (Path, "read_bytes"),
]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSpec:
    for name in ("digits.pt", "samples.npz", "digits_model.py"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return load_spec(tmp_path / "spec.yaml")


@pytest.fixture
def here(loaded: LoadedSpec) -> Here:
    """A fictitious machine."""
    observed = observe_here(loaded)
    return replace(
        observed,
        fingerprint={"architecture": "pdp11", "processor": "KB11", "instructions": "0" * 16, "cpus": 1.0},
        packages=dict.fromkeys(observed.packages, "1.2.3"),
        assets="a" * 64,
        servers={
            **dict.fromkeys(SERVERS, ServerHere(present=True)),
            "torchserve": ServerHere(present=False, notes=("TorchServe is elsewhere",)),
        },
        factory_file=loaded.folder / "digits_model.py",
        random_samples=True,
    )


def blind(monkeypatch: pytest.MonkeyPatch, look: Callable[[], Any]) -> Any:
    """What `look` answers where it may not look at the machine."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"the machine was looked at: {arguments}")

    with monkeypatch.context() as patch:
        for owner, name in LOOKS:
            patch.setattr(owner, name, refuse)
        return look()


def test_compiling_and_computing_keys_do_not_look_at_the_machine(
    loaded: LoadedSpec, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = planned_model(loaded, None)
    compile_plan(loaded, model, here)  # imports the backends

    plan: Plan = blind(monkeypatch, lambda: compile_plan(loaded, model, here))
    keys = blind(monkeypatch, lambda: {step.id: key_parts(step, {}, {}, plan.here) for step in plan.steps})

    assert keys["convert.onnx"]["tools"]["onnx"] == "1.2.3"
    assert keys["verify.onnx-fp32"]["machine"]["architecture"] == "pdp11"
    assert plan.step("render").params["assets"] == "a" * 64
    assert plan.step("import").code[0].path == loaded.folder / "digits_model.py"
    assert "TorchServe is elsewhere" in plan.notes
    assert "this machine has 1 CPUs, so `hardware.cpus: 2` is measured on fewer" in plan.notes
    assert any("random ones of `mlo init`" in note for note in plan.notes)


def test_the_same_spec_on_the_same_machine_is_the_same_plan(loaded: LoadedSpec, here: Here) -> None:
    model = planned_model(loaded, None)
    assert compile_plan(loaded, model, here) == compile_plan(loaded, model, here)


@pytest.mark.parametrize(
    ("package", "candidate"), [("torchserve", "torchscript-fp32"), ("openvino", "onnx-fp32@openvino")]
)
def test_a_package_that_is_not_installed_refuses_a_candidate(
    loaded: LoadedSpec, here: Here, package: str, candidate: str
) -> None:
    without = replace(here, packages={**here.packages, package: None})
    plan = compile_plan(loaded, planned_model(loaded, None), without)
    reasons = {refused.candidate: refused.reason for refused in plan.refused}
    assert reasons[candidate] == f"{package} not installed: pip install 'mlo[{package}]'"


def test_the_plan_says_which_lines_may_be_frozen_and_which_variables_are_not_set(
    loaded: LoadedSpec, here: Here
) -> None:
    text = SPEC.replace('factory: "', 'env: [RANKER_CONFIG, RANKER_HOME], factory: "')
    (loaded.folder / "spec.yaml").write_text(text + "verify: {accept_traced: [net.py:9]}\n", encoding="utf-8")
    accepting = load_spec(loaded.folder / "spec.yaml")
    told = replace(here, variables={"RANKER_CONFIG": None, "RANKER_HOME": "0" * 64})
    plan = compile_plan(accepting, planned_model(accepting, None), told)
    assert any(note.startswith("tracing may freeze net.py:9 (`verify.accept_traced`)") for note in plan.notes)
    assert "not set in the environment of mlo: RANKER_CONFIG (`model.source.env`)" in plan.notes
    assert plan.step("convert.onnx").params["accept_traced"] == ["net.py:9"]
    assert plan.step("import").params["source"]["env"] == ["RANKER_CONFIG", "RANKER_HOME"]
    keys = key_parts(plan.step("benchmark.runtime"), {}, {}, told)
    assert keys["env"] == {"RANKER_CONFIG": "not set", "RANKER_HOME": "0" * 64}
