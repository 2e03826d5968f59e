"""Parameters of the step that verifies a variant, in the runtime of its format's usual backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.steps.parameters import Accelerator, CandidateParameters, VerifyParameters
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, RuntimeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.spec.gates import Precision
    from orchestrator.spec.signature import Signature

BACKENDS = {
    "onnx": "onnxruntime",
    "torchscript": "torchserve",
    "exported-program": "torchserve",
    "saved-model": "tensorflow-serving",
    "tflite": "litert",
}


def verify_params(
    signature: Signature,
    format_name: str,
    precision: Precision,
    gates: Mapping[str, float] | None = None,
    accelerator: Accelerator = "none",
    options: RuntimeOptions = DEFAULT_OPTIONS,
) -> dict[str, Any]:
    name = f"{format_name}-{precision}"
    candidate = CandidateParameters(name, name, format_name, precision, BACKENDS[format_name], options)
    return VerifyParameters(candidate, signature, gates or {}, accelerator).as_json()
