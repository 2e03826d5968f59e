"""What is not tried on CUDA devices, and what a decision for them says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.table import backends_of
from orchestrator.backends.versions import installed_closure
from orchestrator.optimize.cuda import refused_on_cuda
from orchestrator.select.step import select
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature
from tests.optimize.select_case import (
    MEASURED_ON,
    candidate,
    context,
    not_served,
    not_timed,
    runtime_candidate,
    server_candidate,
)

SPEC: dict[str, Any] = {
    "apiVersion": "mlo/v1",
    "kind": "ModelDeployment",
    "metadata": {"name": "m"},
    "model": {
        "source": {"kind": "torchscript", "weights": "m.pt"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "tokens"]}],
        "outputs": [{"name": "y"}],
        "dims": {"batch": {"max": 8}, "tokens": {"max": 16}},
    },
}


def refused(hardware: dict[str, Any], variant: str, backend: str, *, graphs: bool = False, **tensor: Any) -> str | None:
    spec = ModelDeployment.model_validate(SPEC | {"hardware": hardware, "serving": {"cuda_graphs": graphs}})
    x = {"name": "x", "dtype": "float32", "shape": ["batch", 3]} | tensor
    signature = Signature.from_json(
        {
            "inputs": [x],
            "outputs": [{"name": "y", "dtype": None, "shape": None}],
            "dims": {"batch": [1, 8], "tokens": [1, 16], "pixels": [8, 8]},
            "batch": "batch",
        }
    )
    name, _, precision = variant.rpartition("-")
    return refused_on_cuda(spec, signature, name, precision, backend)


ONE, TWO = {"accelerator": "cuda"}, {"accelerator": "cuda", "count": 2}


@pytest.mark.parametrize(
    ("variant", "backend"),
    [
        ("onnx-fp32", "onnxruntime"),
        ("torchscript-bf16", "torchserve"),
        ("exported-program-fp32", "torchserve"),
        ("saved-model-fp32", "tensorflow-serving"),
    ],
)
def test_floating_point_runs_on_a_gpu_in_every_format_that_has_a_server(variant: str, backend: str) -> None:
    assert refused(ONE, variant, backend) is None


@pytest.mark.parametrize("variant", ["onnx-int8", "tflite-fp32", "tflite-int8"])
def test_variants_that_would_run_on_the_cpu_are_not_tried(variant: str) -> None:
    assert "CPU" in (refused(ONE, variant, backends_of(variant.rpartition("-")[0])[0]) or "")
    assert refused({}, variant, backends_of(variant.rpartition("-")[0])[0]) is None


def test_tensorflow_serving_has_one_device() -> None:
    assert "only runs a model on its first device" in (refused(TWO, "saved-model-fp32", "tensorflow-serving") or "")
    assert refused(TWO, "torchscript-fp32", "torchserve") is None


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({}, None),
        ({"shape": ["batch", "pixels"]}, None),
        ({"shape": ["batch", "tokens"]}, "CUDA graphs need fixed sizes, but `tokens` goes from 1 to 16"),
        ({"dtype": "string"}, "CUDA graphs need numbers, but `x` is text"),
    ],
)
def test_cuda_graphs_require_that_only_the_batch_size_varies(tensor: dict[str, Any], reason: str | None) -> None:
    assert refused(ONE, "onnx-fp32", "onnxruntime", graphs=True, **tensor) == reason


def install(site: Path, name: str, version: str, *requires: str) -> None:
    """What pip leaves of a distribution, as far as versions are read."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {each}" for each in requires)]) + "\n")


@pytest.fixture
def cuda_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's build for CUDA beside the one for CPUs, with what it requires."""
    site = tmp_path / "site"
    install(
        site,
        "onnxruntime-gpu",
        "1.30.0",
        "flatbuffers",
        'nvidia-cudnn-cu12~=9.0; extra == "cudnn"',
        'sympy; extra == "x"',
    )
    install(site, "nvidia-cudnn-cu12", "9.8.0.87")
    monkeypatch.syspath_prepend(str(site))


@pytest.mark.usefixtures("cuda_packages")
def test_what_an_image_for_gpus_pins_is_the_build_for_cuda_with_nvidias_libraries() -> None:
    found = installed_closure(("onnxruntime", "numpy"), cuda=True)
    assert (found["onnxruntime-gpu"], found["nvidia-cudnn-cu12"]) == ("1.30.0", "9.8.0.87")
    assert not {"onnxruntime", "sympy"} & set(found)
    assert "onnxruntime-gpu" not in installed_closure(("onnxruntime", "numpy"))


@pytest.mark.usefixtures("cuda_packages")
def test_a_decision_for_gpus_says_what_it_was_measured_on_and_deploys_the_build_for_cuda(tmp_path: Path) -> None:
    made = context(
        tmp_path,
        [candidate("onnx-fp32"), candidate("onnx-int8", refused="it would run on the CPU")],
        [runtime_candidate("onnx-fp32"), not_timed("onnx-int8", "not measured", "refused")],
        [server_candidate("onnx-fp32"), not_served("onnx-int8", "not a finalist", "refused")],
        measured_on=MEASURED_ON.model_copy(update={"accelerators": ("NVIDIA A10G",) * 2, "driver": "550.54.14"}),
    )
    made = replace(made, params={**made.params, "accelerator": "cuda"})
    select(made)
    decision = json.loads((made.output / "decision.json").read_text())
    assert (
        "measured on NVIDIA A10G, NVIDIA A10G with driver 550.54.14; latencies differ on other GPUs"
        in decision["notes"]
    )
    assert decision["measured_on"]["accelerators"] == ["NVIDIA A10G"] * 2
    winner = json.loads((made.output / "winner.json").read_text())
    assert winner["variant"] == "onnx-fp32"
    assert winner["tools"]["onnxruntime-gpu"] == "1.30.0"
