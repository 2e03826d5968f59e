"""Runs an ONNX variant in ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime

from orchestrator.frameworks.dtypes import plain
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from orchestrator.spec.signature import Signature

__all__ = ["OrtRuntime", "open_onnx", "session_options"]


class OrtRuntime:
    """One session; see `orchestrator.frameworks.runtime.Runtime`.

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

    def facts(self) -> dict[str, Any]:
        """See `Runtime.facts`; adds the execution providers in their order of preference."""
        return {
            "runtime": "onnxruntime",
            "versions": {"onnxruntime": onnxruntime.__version__},
            "threads": self._threads,
            "providers": self._session.get_providers(),
        }


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


def open_onnx(directory: Path, signature: Signature, threads: int) -> OrtRuntime:
    """Load `model.onnx` of a variant; see `open_runtime`."""
    try:
        session = onnxruntime.InferenceSession(
            str(directory / "model.onnx"), session_options(threads), providers=["CPUExecutionProvider"]
        )
    # Its exceptions share no base class of their own; whatever it says is the reason.
    except Exception as error:
        raise StepError(
            "E420", "ONNX Runtime does not load the model", cause=str(error).strip().splitlines()[-1]
        ) from error
    inputs, outputs = ({tensor.name: tensor.name for tensor in side} for side in (signature.inputs, signature.outputs))
    return OrtRuntime(session, inputs, outputs, threads)
