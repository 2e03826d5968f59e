"""Refuses variants that are not tried on CUDA devices; whether this machine has such devices is checked by the plan."""

from __future__ import annotations

from orchestrator.backends.table import BACKENDS, backend
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.signature import Signature

__all__ = ["refused_on_cuda"]


def refused_on_cuda(
    spec: ModelDeployment, signature: Signature, format_name: str, precision: str, backend_name: str
) -> str | None:
    """Why a variant is not tried on the requested devices; None if it is, or if no devices are requested."""
    if not spec.hardware.devices:
        return None
    chosen = backend(backend_name)
    if reason := chosen.refuses_on_cuda(format_name, precision, spec.hardware.devices):
        return reason
    if not spec.serving.cuda_graphs:
        return None
    if not chosen.cuda_graphs:
        others = [name for name in BACKENDS if backend(name).cuda_graphs]
        return (
            f"`serving.cuda_graphs` is true, but {chosen.name} does not support CUDA graphs; {', '.join(others)} does"
        )
    return _not_fixed(signature)


def _not_fixed(signature: Signature) -> str | None:
    """Why calls with the same batch size can differ in shape, which CUDA graphs do not allow."""
    for tensor in (*signature.inputs, *signature.outputs):
        if tensor.dtype == "string":
            return f"CUDA graphs need numbers, but `{tensor.name}` is text"
        for dim in tensor.shape or ():
            low, high = (0, 0) if isinstance(dim, int) or dim == signature.batch else signature.dims.get(dim, (0, 0))
            if low < high:
                return f"CUDA graphs need fixed sizes, but `{dim}` goes from {low} to {high}"
    return None
