"""Runs ONNX models in OpenVINO, on the CPU, as the server does (`orchestrator/server/openvino_session.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.source.runtime import gpu_not_used
from orchestrator.server.openvino_engine import compile_settings, openvino, unfit_values
from orchestrator.steps.context import refuse_on
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature

__all__ = ["OpenVinoRuntime", "open_onnx"]


class OpenVinoRuntime:
    """One compiled model; see `orchestrator.frameworks.source.runtime.Runtime`."""

    def __init__(self, compiled: Any, signature: Signature, threads: int) -> None:
        self._request = compiled.create_infer_request()
        self._inputs = [tensor.name for tensor in signature.inputs]
        self._outputs = {tensor.name: compiled.output(tensor.name) for tensor in signature.outputs}
        self._threads = threads

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call; see `Runtime.run`.

        Raises:
            ValueError: OpenVINO would compute with other values.
        """
        if unfit := unfit_values(inputs):
            raise ValueError(unfit)
        answer = self._request.infer({name: np.asarray(inputs[name], order="C") for name in self._inputs})
        return {name: answer[output] for name, output in self._outputs.items()}

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        return RuntimeFacts("openvino", {"openvino": openvino.__version__.partition("-")[0]}, self._threads)


def open_onnx(
    directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> OpenVinoRuntime:
    """Load `model.onnx` of a variant; see `open_runtime`."""
    if accelerator != "none":
        raise gpu_not_used("OpenVINO", "it does not run on NVIDIA GPUs")
    with refuse_on(RuntimeError, "E420", "OpenVINO does not load the model", cause=headline):
        compiled = openvino.Core().compile_model(str(directory / "model.onnx"), "CPU", compile_settings(threads))
    return OpenVinoRuntime(compiled, signature, threads)
