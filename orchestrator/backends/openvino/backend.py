"""ONNX models in OpenVINO, on mlo's own server. It computes on CPUs; on x86 it is often the fastest for int8."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess
from orchestrator.backends.own_server import SERVER_TOOLS, OwnServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backends.backend import ServingSettings
    from orchestrator.spec.signature import Signature

__all__ = ["OPENVINO", "OpenVino"]

_INEXACT = {
    "float64": "computes float64 as float32",
    "uint64": "computes uint64 with 32 bits",
    "string": "has no operators for strings",
}
"""dtype → what OpenVINO does with it on CPUs; the server refuses these too (`orchestrator/server/openvino_session.py`)."""


class OpenVino(OwnServer):
    """See `orchestrator.backends.backend.ServingBackend`."""

    name = "openvino"
    runtimes = MappingProxyType(
        {"onnx": InProcess("orchestrator.frameworks.onnx.openvino_runtime:open_onnx", ("openvino",))}
    )
    options = frozenset({"threads", "instances", "batching"})
    tools = ("openvino", *SERVER_TOOLS)
    modules = MappingProxyType(
        {"openvino": "openvino", **dict.fromkeys(("uvloop", "httptools", "orjson", "prometheus_client"), "server")}
    )

    def refuses(self, signature: Signature) -> str | None:
        """A dtype that OpenVINO does not compute exactly. Called again once the model was run and output dtypes are known."""
        for what, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            for tensor in tensors:
                if tensor.dtype in _INEXACT:
                    return f"the {what} {tensor.name} is {tensor.dtype}, and OpenVINO {_INEXACT[tensor.dtype]}"
        return None

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str:  # noqa: ARG002
        """Always: it does not run on NVIDIA GPUs."""
        return "OpenVINO does not run on NVIDIA GPUs"

    def session_settings(self, settings: ServingSettings) -> Mapping[str, Any]:  # noqa: ARG002
        """The runtime, on the CPU."""
        return {"runtime": "openvino", "provider": "CPUExecutionProvider"}


OPENVINO = OpenVino()
