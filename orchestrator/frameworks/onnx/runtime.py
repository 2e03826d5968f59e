"""Runs ONNX models in ONNX Runtime, on the CPU or on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.source.accelerators import not_used
from orchestrator.frameworks.source.dtypes import plain
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from orchestrator.frameworks.source.accelerators import Accelerator
    from orchestrator.spec.signature import Signature

__all__ = ["CUDA_OPTIONS", "OrtRuntime", "open_onnx", "open_session", "session_options"]

CUDA_OPTIONS = {
    "device_id": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
"""As the server opens it (`orchestrator/server/session.py`, which says why), since that is what will serve; a test compares."""


class OrtRuntime:
    """One session; see `orchestrator.frameworks.source.runtime.Runtime`.

    Args:
        session: the loaded model.
        inputs: the spec's name of every input → the model's own.
        outputs: the same of the outputs that are wanted.
        threads: that the session was opened with.
        held: what must live as long as the session.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        threads: int,
        held: object = None,
    ) -> None:
        self._session = session
        self._held = held
        self._inputs = dict(inputs)
        self._outputs = tuple(outputs)
        self._own_outputs = list(outputs.values())
        self._threads = threads

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call; see `Runtime.run`."""
        outputs = self._session.run(self._own_outputs, {own: inputs[name] for name, own in self._inputs.items()})
        return {name: plain(array) for name, array in zip(self._outputs, outputs, strict=True)}

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        versions = {"onnxruntime": onnxruntime.__version__}
        return RuntimeFacts("onnxruntime", versions, self._threads, providers=tuple(self._session.get_providers()))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options for exactly `threads` threads, none of which spins while it waits.

    Spinning threads win a little latency in a lone process and lose a lot where CPUs are limited or shared.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: its warnings speak of nodes, not of what a user can change
    return options


def open_session(
    model: str | bytes, options: onnxruntime.SessionOptions, accelerator: Accelerator
) -> onnxruntime.InferenceSession:
    """A session on the CPU, or on the first GPU, and never on the one instead of the other.

    Args:
        model: a path, or a serialized model.
        options: of the session.
        accelerator: what computes.

    Raises:
        StepError: E427, the GPU is not used.
        Exception: the model does not load; ONNX Runtime's exceptions share no base class of their own.
    """
    if accelerator == "none":
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise not_used("ONNX Runtime", "the installed onnxruntime is a build for CPUs")
    onnxruntime.preload_dlls()  # CUDA's and cuDNN's libraries as packages bring them
    session = onnxruntime.InferenceSession(
        model, options, providers=[("CUDAExecutionProvider", CUDA_OPTIONS)], enable_fallback=0
    )
    if "CUDAExecutionProvider" not in session.get_providers():
        raise not_used(
            "ONNX Runtime", "its CUDA provider does not start: the driver, CUDA or cuDNN is missing or too old"
        )
    return session


def open_onnx(directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none") -> OrtRuntime:
    """Load `model.onnx` of a variant; see `open_runtime`."""
    try:
        session = open_session(str(directory / "model.onnx"), session_options(threads), accelerator)
    except StepError:
        raise
    # Its exceptions share no base class of their own; whatever it says is the reason.
    except Exception as error:
        raise StepError(
            "E420", "ONNX Runtime does not load the model", cause=str(error).strip().splitlines()[-1]
        ) from error
    inputs, outputs = ({tensor.name: tensor.name for tensor in side} for side in (signature.inputs, signature.outputs))
    return OrtRuntime(session, inputs, outputs, threads)
