"""Runs ONNX models in ONNX Runtime, on the CPU or on a GPU: variants, and models as given."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import onnxruntime
from onnx.external_data_helper import uses_external_data

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.onnx.file import checker_error, read_onnx
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.source.runtime import gpu_not_used
from orchestrator.frameworks.source.samples import plain
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from orchestrator.frameworks.onnx.file import GivenModel
    from orchestrator.frameworks.onnx.signature import Names
    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.runtime_options import GraphOptimization

__all__ = [
    "CUDA_OPTIONS",
    "OrtRuntime",
    "open_checked_file",
    "open_given",
    "open_onnx",
    "open_session",
    "session_options",
]

CUDA_OPTIONS = {
    "device_id": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
"""The same settings as the server's (`orchestrator/server/onnxruntime_session.py` gives the reasons); a test compares them."""


_GRAPH_OPTIMIZATION: Mapping[GraphOptimization, onnxruntime.GraphOptimizationLevel] = MappingProxyType(
    {
        "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }
)


class OrtRuntime:
    """One session; see `orchestrator.frameworks.source.runtime.Runtime`.

    Args:
        session: the loaded model.
        inputs: name in the spec → the model's own, for all inputs.
        outputs: the same for the requested outputs.
        threads: of the session.
        held: objects that must live as long as the session.
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


def session_options(threads: int, *, spinning: bool = False) -> onnxruntime.SessionOptions:
    """Session options for exactly `threads` threads, which do not spin while waiting unless they are told to.

    Spinning reduces the latency a little if a process has the machine to itself, and increases it a lot if CPUs are limited
    or shared.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.log_severity_level = (
        3  # errors only: its warnings are about nodes, not about anything that a user can change
    )
    return options


def open_session(
    model: str | bytes,
    options: onnxruntime.SessionOptions,
    accelerator: Accelerator,
    provider: str = "CPUExecutionProvider",
) -> onnxruntime.InferenceSession:
    """A session on the CPU or on the first GPU, without a fallback from one to the other.

    Args:
        model: a path, or a serialized model.
        options: of the session.
        accelerator: the device that runs the model.
        provider: ONNX Runtime's execution provider, if no accelerator is requested.

    Raises:
        StepError: E427, the GPU or the provider cannot be used.
        Exception: the model cannot be loaded; ONNX Runtime's exceptions have no common base class.
    """
    if accelerator == "none":
        if provider not in onnxruntime.get_available_providers():
            raise StepError("E427", f"the installed onnxruntime has no {provider}", at=("hardware", "accelerator"))
        return onnxruntime.InferenceSession(model, options, providers=[provider])
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise gpu_not_used("ONNX Runtime", "the installed onnxruntime is a CPU build")
    onnxruntime.preload_dlls()  # the CUDA and cuDNN libraries from Python packages
    session = onnxruntime.InferenceSession(
        model, options, providers=[("CUDAExecutionProvider", CUDA_OPTIONS)], enable_fallback=0
    )
    if "CUDAExecutionProvider" not in session.get_providers():
        raise gpu_not_used(
            "ONNX Runtime", "its CUDA provider does not start: the driver, CUDA or cuDNN is missing or too old"
        )
    return session


def open_onnx(
    directory: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
    *,
    graph_optimization: GraphOptimization = "all",
    execution_provider: str = "CPUExecutionProvider",
    spinning: bool = False,
    memory_arena: bool = True,
) -> OrtRuntime:
    """Load `model.onnx` of a variant; see `open_with`."""
    options = session_options(threads, spinning=spinning)
    options.enable_cpu_mem_arena = memory_arena
    options.graph_optimization_level = _GRAPH_OPTIMIZATION[graph_optimization]
    # Its exceptions have no common base class; every message is taken as the reason.
    with refuse_as(Exception, _variant_not_loaded):
        session = open_session(str(directory / "model.onnx"), options, accelerator, execution_provider)
    inputs, outputs = ({tensor.name: tensor.name for tensor in side} for side in (signature.inputs, signature.outputs))
    return OrtRuntime(session, inputs, outputs, threads)


def _variant_not_loaded(error: Exception) -> StepError:
    text = headline(error)
    remedy = "write that part of the model with other operators, or leave onnx out of `optimize.formats`"
    if "'Cubic' mode only supports" in text:
        remedy = "resize with bilinear or nearest instead of bicubic, or leave onnx out of `optimize.formats`"
    return StepError("E420", "ONNX Runtime does not load the model", cause=text, remedy=remedy)


_NO_OPERATOR = re.compile(
    r"(?P<unknown>[\w.:]+)\(-?\d+\) is not a registered function/op"
    r"|No Op registered for (?P<unnamed>\w+)"
    r"|Could not find an implementation for (?P<op>\w+)\((?P<version>\d+)\)"
)
_NEWER_IR_VERSION = re.compile(r"Unsupported model IR version: \d+, max supported IR version: \d+")
_NEWER_OPSET = re.compile(r"Opset \d+ is under development")


def open_given(model: GivenModel, names: Names, threads: int, accelerator: Accelerator = "none") -> OrtRuntime:
    """The model with ONNX Runtime's default optimizations, called by the spec's names.

    The files with weights are not opened again, so that exactly the checked content is run.

    Args:
        model: as `read_onnx` returns it.
        names: the spec's name of each tensor → the model's own.
        threads: for the operators of one call.
        accelerator: the device that runs the model.

    Raises:
        StepError: E302 ONNX Runtime cannot load the model, E364 it lacks an operator, E427 the GPU cannot be used.
    """
    options = _given_options(threads)
    outside = [tensor for tensor in model.proto.graph.initializer if uses_external_data(tensor)]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(model.data.array(tensor)) for tensor in outside]
    if outside:
        options.add_external_initializers([tensor.name for tensor in outside], values)
    # Its exceptions have no common base class; every message is taken as the reason.
    with refuse_as(Exception, lambda error: _not_loaded(error, model)):
        session = open_session(model.proto.SerializeToString(), options, accelerator)
    return OrtRuntime(session, names["inputs"], names["outputs"], threads, held=values)


def open_checked_file(path: Path, names: Names, threads: int, accelerator: Accelerator = "none") -> OrtRuntime:
    """The checked model at `path`, loaded by ONNX Runtime from the file, unless its IR version has to be lowered.

    Args:
        path: the file; ONNX Runtime does not read files outside its folder.
        names: the spec's name of each tensor → the model's own.
        threads: for the operators of one call.
        accelerator: the device that runs the model.

    Raises:
        StepError: E302 ONNX Runtime cannot load the model, E364 it lacks an operator, E427 the GPU cannot be used.
    """
    # As above.
    with refuse_as(Exception, lambda error: _not_loaded(error, None)):
        try:
            session = open_session(str(path), _given_options(threads), accelerator)
        except Exception as error:
            if not _NEWER_IR_VERSION.search(str(error)):
                raise
            return open_given(read_onnx(path), names, threads, accelerator)
    return OrtRuntime(session, names["inputs"], names["outputs"], threads)


def _given_options(threads: int) -> onnxruntime.SessionOptions:
    options = session_options(threads)
    # Whatever its name is, the file is not in ONNX Runtime's own format.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _not_loaded(error: Exception, model: GivenModel | None) -> StepError:
    text = headline(error)
    if match := _NO_OPERATOR.search(text):
        name = match["unknown"] or match["unnamed"] or f"{match['op']} of version {match['version']}"
        return StepError(
            "E364",
            f"the model uses an operator that ONNX Runtime does not have: {name}",
            cause=f"the CPU provider of ONNX Runtime {onnxruntime.__version__} has no kernel for it"
            if match["op"]
            else text,
            remedy="export the model with standard operators, preferably of a newer opset",
            at=AT_WEIGHTS,
        )
    if _NEWER_OPSET.search(text):
        return StepError(
            "E302",
            "the model was written for a newer ONNX than this ONNX Runtime reads",
            cause=text,
            remedy=f"export it for an older opset, or install a newer onnxruntime than {onnxruntime.__version__}",
            at=AT_WEIGHTS,
        )
    against = checker_error(model) if model is not None else ""
    return StepError(
        "E302",
        "ONNX Runtime does not load the model",
        cause=text,
        remedy="install that locale here and in the image, or give the model's StringNormalizer the locale C.UTF-8"
        if "locale" in text
        else "export the model again",
        at=AT_WEIGHTS,
        notes=(f"ONNX's checker says: {against}",) if against else (),
    )
