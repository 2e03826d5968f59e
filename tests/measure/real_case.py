"""A step's context with real models: the digits example as baseline, ONNX models built by hand as candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import (
    RuntimeBenchmarkParameters,
    ServerBenchmarkParameters,
    ServiceLevel,
    SourceParameters,
)
from tests.artifacts.made import facts, verdict
from tests.artifacts.made import imported as imported_model

DIGITS = Path(__file__).parents[2] / "specs" / "digits"

SIGNATURE = Signature(
    inputs=(Tensor("image", "float32", ("batch", 1, 8, 8)),),
    outputs=(Tensor("logits", "float32", ("batch", 10)),),
    dims={"batch": (1, 64)},
    batch="batch",
)
RUNTIME = RuntimeBenchmarkParameters(
    candidates=(),
    source=SourceParameters("pytorch", factory="digits_model:DigitsNet"),
    open_baseline="orchestrator.frameworks.pytorch.source:open_baseline",
    batch_sizes=(1, 8),
    cpus=2.0,
    memory=2**31,
    time_budget=40.0,
)
SERVER = ServerBenchmarkParameters(
    candidates=(),
    signature=SIGNATURE,
    cpus=2.0,
    memory=2**31,
    slo=ServiceLevel(p99_latency=0.25, throughput=200.0),
    wires=("json", "binary"),
    batching="auto",
    batch_sizes=(1, 8),
    objective="latency",
    time_budget=40.0,
    assets="",
    servers={"onnxruntime": True, "openvino": True, "torchserve": True},
)


def write_import(folder: Path) -> Path:
    """What the step `import` leaves, as far as measuring reads it."""
    folder.mkdir(parents=True)
    imported_model(SIGNATURE).write(folder)
    with np.load(DIGITS / "digits.npz") as samples:
        np.savez(folder / "samples.npz", image=samples["image"][:16])
    return folder


def write_linear_model(folder: Path, *, layers: int = 1) -> Path:
    """A variant: `layers` square matrices and a last one, in ONNX."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    weights = [draw.normal(size=(64, 64)).astype(np.float32) / 8 for _ in range(layers - 1)]
    weights.append(draw.normal(size=(64, 10)).astype(np.float32))
    nodes = [helper.make_node("Flatten", ["image"], ["h0"])]
    for number in range(layers):
        target = "logits" if number == layers - 1 else f"h{number + 1}"
        nodes.append(helper.make_node("MatMul", [f"h{number}", f"w{number}"], [target]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, f"w{number}") for number, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    facts().write(folder)
    return folder


def write_verdict(folder: Path, *, passed: bool) -> Path:
    """What the step `verify` leaves, as far as measuring reads it."""
    folder.mkdir(parents=True)
    verdict(passed=passed).write(folder)
    return folder


def candidate(variant: str, backend: str = "onnxruntime") -> dict[str, Any]:
    """An item of the parameter `candidates`."""
    format_name, _, precision = variant.rpartition("-")
    return {
        "candidate": variant, "variant": variant, "format": format_name, "precision": precision, "backend": backend
    }  # fmt: skip


def step_context(
    folder: Path, inputs: Mapping[str, Path], candidates: Sequence[Mapping[str, Any]], **params: Any
) -> StepContext:
    """The context that the engine would give; `params` override."""
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    usual = SERVER if "runtime" in inputs else RUNTIME
    return StepContext(
        params={**usual.as_json(), "candidates": list(candidates), **params},
        inputs=inputs,
        output=folder / "output",
        scratch=folder / "scratch",
        project=DIGITS,
    )
