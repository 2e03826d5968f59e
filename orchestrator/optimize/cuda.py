"""What is not tried on CUDA devices, and why. Data and rules; whether this machine has such devices is the plan's concern."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature

__all__ = ["refused_on_cuda"]

_GRAPHS = "onnxruntime"
"""The backend that captures CUDA graphs."""

_VARIANTS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        (
            "onnx",
            "int8",
        ): "int8 is quantized for the kernels of CPUs, which ONNX Runtime's CUDA provider does not have: "
        "it would run on the CPU, or slower than fp32",
        ("tflite", "fp32"): "LiteRT runs on CPUs here",
        ("tflite", "int8"): "LiteRT runs on CPUs here",
    }
)
"""Format and precision → why it is not for CUDA."""


def refused_on_cuda(
    spec: ModelDeployment, signature: Signature, format_name: str, precision: str, backend: str
) -> str | None:
    """Why a variant is not tried on the devices that the spec asks for; None where it is, or none are asked for."""
    if not spec.hardware.devices:
        return None
    if reason := _VARIANTS.get((format_name, precision)):
        return reason
    if spec.hardware.devices > 1 and backend == "tensorflow-serving":
        return (
            "TensorFlow Serving runs a model on its first device alone; with `hardware.count: 1`, "
            "`serving.replicas` use more"
        )
    if not spec.serving.cuda_graphs:
        return None
    if backend != _GRAPHS:
        return f"`serving.cuda_graphs` is true, and {backend} captures none; {_GRAPHS} does"
    return _not_fixed(signature)


def _not_fixed(signature: Signature) -> str | None:
    """Why calls of one number of rows are not all alike, as a CUDA graph needs them."""
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.dtype == "string":
            return f"CUDA graphs take numbers, and `{tensor.name}` is text"
        for dim in tensor.shape or ():
            low, high = (0, 0) if isinstance(dim, int) or dim == signature.batch else signature.dims.get(dim, (0, 0))
            if low < high:
                return f"CUDA graphs take fixed sizes, and `{dim}` goes from {low} to {high}"
    return None
