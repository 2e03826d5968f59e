"""Which candidates `serving.grpc` leaves."""

from __future__ import annotations

from typing import Any

from orchestrator.optimize.candidates import candidates
from orchestrator.optimize.variants import RefusedCandidate
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature

SPEC: dict[str, Any] = {
    "apiVersion": "mlo/v1",
    "kind": "ModelDeployment",
    "metadata": {"name": "m"},
    "model": {
        "source": {"kind": "torchscript", "weights": "m.pt"},
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y"}],
        "dims": {"batch": {"max": 8}},
    },
    "optimize": {"precisions": ["fp32"]},
}
SIGNATURE = Signature.from_json(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
        "outputs": [{"name": "y", "dtype": None, "shape": None}],
        "dims": {"batch": [1, 8]},
        "batch": "batch",
    }
)


def by_backend(*, grpc: bool) -> dict[str, str | None]:
    """Backend → why its candidate is refused; None where it is tried."""
    spec = ModelDeployment.model_validate(SPEC | {"serving": {"grpc": grpc}})
    found = [each for each in candidates(spec, SIGNATURE, {}) if each.variant.format != "tflite"]
    return {each.backend: each.reason if isinstance(each, RefusedCandidate) else None for each in found}


def test_backends_without_grpc_are_refused_where_the_spec_asks_for_it() -> None:
    without, reasons = by_backend(grpc=False), by_backend(grpc=True)
    assert without["torchserve"] is None
    offered = " and ".join(name for name, reason in reasons.items() if reason is None)
    assert reasons["torchserve"] == (
        f"`serving.grpc` is true, but torchserve is served over HTTP alone; {offered} also offer gRPC"
    )
    assert reasons["onnxruntime"] is None
    assert reasons["openvino"] is None
