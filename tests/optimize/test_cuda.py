"""What is not tried on CUDA devices."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.optimize.cuda import refused_on_cuda
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature

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
def test_what_would_run_on_the_cpu_is_not_tried(variant: str) -> None:
    assert "CPU" in (refused(ONE, variant, "any") or "")
    assert refused({}, variant, "any") is None


def test_tensorflow_serving_has_one_device() -> None:
    assert "first device alone" in (refused(TWO, "saved-model-fp32", "tensorflow-serving") or "")
    assert refused(TWO, "torchscript-fp32", "torchserve") is None


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({}, None),
        ({"shape": ["batch", "pixels"]}, None),
        ({"shape": ["batch", "tokens"]}, "CUDA graphs take fixed sizes, and `tokens` goes from 1 to 16"),
        ({"dtype": "string"}, "CUDA graphs take numbers, and `x` is text"),
    ],
)
def test_cuda_graphs_need_sizes_that_only_the_batch_changes(tensor: dict[str, Any], reason: str | None) -> None:
    assert refused(ONE, "onnx-fp32", "onnxruntime", graphs=True, **tensor) == reason
