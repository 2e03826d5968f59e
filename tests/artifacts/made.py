"""Documents as steps leave them, made of the few values that a test is about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.artifacts.imported import EdgeCase, Imported, SamplesKind
from orchestrator.artifacts.inspection import Inspection
from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.artifacts.sizing import Sizing
from orchestrator.artifacts.variant_facts import VariantFacts, variant_facts
from orchestrator.artifacts.verdict import GateResult, Verdict
from orchestrator.artifacts.winner import Winner
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS

SIGNATURE = Signature(
    inputs=(Tensor("x", "float32", ("batch", 4)),),
    outputs=(Tensor("y", "float32", ("batch", 2)),),
    dims={"batch": (1, 64)},
    batch="batch",
)
RUNTIME = RuntimeFacts("onnxruntime", {"onnxruntime": "1.23.0"}, 1, providers=("CPUExecutionProvider",))


def inspection(document: Mapping[str, Any]) -> Inspection:
    """From plain JSON with at least `inputs` and `outputs`."""
    rest: dict[str, Any] = {"ranges": {}, "multiples": {}, "files": [], "notes": [], "weights": None}
    return Inspection.model_validate_json(json.dumps({**rest, **document}))


def imported(
    signature: Signature = SIGNATURE,
    *,
    samples: SamplesKind = "real",
    rows: int = 16,
    classes: Sequence[str] = (),
    edges: Sequence[str] = (),
    one_by_one: str | None = None,
) -> Imported:
    """Of a model with this signature; `edges` names its edge cases, whose files lie in their order."""
    return Imported(
        signature=signature,
        samples=samples,
        rows=rows,
        classes=tuple(classes),
        parameters=0,
        framework={},
        notes=(),
        one_by_one=one_by_one,
        infinite_outputs=(),
        edge_cases=tuple(EdgeCase(name=name, number=number, finite=True) for number, name in enumerate(edges)),
        edge_cases_left_out=(),
    )


def facts(format_name: str = "onnx", precision: str = "fp32", **known: Any) -> VariantFacts:
    """Of a variant; `known` are facts that apply to it."""
    return variant_facts(format=format_name, precision=precision, **known)


def verdict(variant: str = "onnx-fp32", *, passed: bool = True, gates: Sequence[GateResult] = ()) -> Verdict:
    """Of a variant on real samples."""
    return Verdict(
        candidate=variant,
        variant=variant,
        passed=passed,
        gates=tuple(gates),
        cases=(),
        samples="real",
        rows=16,
        runtime=RUNTIME,
        accuracy={},
    )


def sizing(**changes: Any) -> Sizing:
    """Of a server that needs less than its limits; `changes` are fields with other values."""
    values: dict[str, Any] = {
        "memory_request": 96 * 2**20,
        "cpu_request": 1.5,
        "longest_request": None,
        "target_cpu_percent": 70,
        "proven_rate": 500.0,
        "replicas": None,
        "p99_limit": None,
    }
    return Sizing(**{**values, **changes})


def winner(variant: str = "onnx-fp32", **changes: Any) -> Winner:
    """A winner on ONNX Runtime; `changes` are fields with other values."""
    format_name, _, precision = variant.rpartition("-")
    values: dict[str, Any] = {
        "candidate": variant,
        "variant": variant,
        "format": format_name,
        "precision": precision,
        "backend": "onnxruntime",
        "options": DEFAULT_OPTIONS,
        "signature": SIGNATURE,
        "max_batch_size": 8,
        "max_delay": 0.0,
        "startup_seconds": 60,
        "model_digest": "ab" * 32,
        "tools": {"onnxruntime": "1.23.0"},
    }
    return Winner(**{**values, **changes})
