"""ONNX models in ONNX Runtime, on mlo's own server."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.backend import InProcess
from orchestrator.backends.own_server import SERVER_TOOLS, OwnServer
from orchestrator.steps.runtime_options import session_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backends.backend import ServingSettings

__all__ = ["ONNXRUNTIME", "OnnxRuntime"]


class OnnxRuntime(OwnServer):
    """See `orchestrator.backends.backend.ServingBackend`."""

    name = "onnxruntime"
    runtimes = MappingProxyType({"onnx": InProcess("orchestrator.frameworks.onnx.runtime:open_onnx", ("onnxruntime",))})
    options = frozenset(
        {"threads", "instances", "graph_optimization", "execution_provider", "batching", "spinning", "memory_arena"}
    )
    tools = ("onnxruntime", *SERVER_TOOLS)
    modules = MappingProxyType(
        dict.fromkeys(("onnxruntime", "uvloop", "httptools", "orjson", "prometheus_client"), "server")
    )
    cuda_graphs = True

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str | None:  # noqa: ARG002
        """int8, because it is quantized for CPU kernels."""
        if precision != "int8":
            return None
        return (
            "int8 is quantized for CPU kernels, which ONNX Runtime's CUDA provider does not have: "
            "it would run on the CPU, or slower than fp32"
        )

    def session_settings(self, settings: ServingSettings) -> Mapping[str, Any]:
        """The execution provider with its devices, and the options of a session that are not the defaults."""
        changed = session_options(settings.options)
        optimized = {name: value for name, value in changed.items() if name != "execution_provider"}
        if not settings.devices:
            return {"provider": settings.options.execution_provider or "CPUExecutionProvider", **optimized}
        return {
            **optimized,
            "provider": settings.options.execution_provider or "CUDAExecutionProvider",
            "devices": tuple(range(settings.devices)),
            "cuda_graphs": settings.cuda_graphs,
        }


ONNXRUNTIME = OnnxRuntime()
