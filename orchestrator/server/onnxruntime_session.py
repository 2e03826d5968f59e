"""The model in ONNX Runtime: opened as configured or not at all, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from .config import CUDA, ServerConfig
from .datatypes import ORT_TYPES, Array
from .errors import BAD_MODEL, UNAVAILABLE, RequestError, StartError
from .fixed_sizes import FixedSizes
from .inline_calls import Stopped
from .session import check_tensors

__all__ = ["OnnxRuntimeSession", "open_session", "provider_options"]

_FAILURES = (
    ort_errors.Fail, ort_errors.EPFail, ort_errors.RuntimeException, ort_errors.NotImplemented, RuntimeError
)  # fmt: skip
_GRAPH_OPTIMIZATION = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_NO_LOG = 4  # ONNX Runtime's own lines are not JSON; its exceptions are logged by the caller


_Call = Callable[..., list[Array]]
"""One call of a session: inputs, on the CPU also ONNX Runtime's options → outputs in the signature's order."""


class OnnxRuntimeSession:
    """One session of ONNX Runtime; see `session.Session`. With CUDA graphs, `run` may be called by one thread only."""

    def __init__(self, call: _Call, *, stoppable: bool) -> None:
        """Wrap an opened session.

        Args:
            call: one call of the session.
            stoppable: whether it accepts options, which can stop a call.
        """
        self.stoppable = _StoppableCalls(call) if stoppable else None
        self._call = call

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session.run`."""
        return _called(self._call, inputs)


class _StoppableCalls:
    """See `session.StoppableCalls`. A call stops between two operators, in a loop's body too; one that takes long by itself ends."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._options = ort.RunOptions()

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        try:
            return _called(self._call, inputs, self._options)
        except RequestError as error:
            if self._options.terminate:
                self._options.terminate = False
                raise Stopped from error
            raise

    def stop(self) -> None:
        self._options.terminate = True


def _called(call: _Call, inputs: Mapping[str, Array], *options: ort.RunOptions) -> list[Array]:
    try:
        return call(inputs, *options)
    except ort_errors.InvalidArgument as error:
        raise RequestError(400, f"the model refused the request: {_text(error)}", reason="refused") from error
    except _FAILURES as error:
        raise RequestError(500, f"the model failed: {_text(error)}", reason="failed") from error


def open_session(config: ServerConfig, device: int | None, threads: int, sizes: Sequence[int]) -> OnnxRuntimeSession:
    """Open one session on a device, or on the CPU, with its share of `threads`; `sizes` are the calls to be warm at.

    Raises:
        StartError: `BAD_MODEL` if the file is missing, is not the configured one, or its inputs and outputs are not the
            signature's; `UNAVAILABLE` if the provider is missing or cannot be started (ONNX Runtime itself would silently
            use the CPU).
    """
    if config.provider not in ort.get_available_providers():
        have = ", ".join(ort.get_available_providers())
        raise StartError(UNAVAILABLE, f"this machine's ONNX Runtime lacks {config.provider}; it has {have}")
    if config.provider == CUDA:
        ort.preload_dlls()  # the CUDA and cuDNN libraries from Python packages, which are not on the loader's path
    path = config.model.file
    where = "" if device is None else f" on device {device}"
    try:
        session = ort.InferenceSession(
            str(path),
            _options(config, threads),
            providers=[(config.provider, provider_options(config, device))],
            enable_fallback=0,  # no fallback to the CPU if a call fails on the device
        )
    except (ort_errors.Fail, ort_errors.InvalidGraph, ort_errors.InvalidProtobuf, ort_errors.NoSuchFile) as error:
        raise StartError(BAD_MODEL, f"{path}: cannot be loaded{where}: {_text(error)}") from error
    except (ort_errors.NotImplemented, ort_errors.InvalidArgument, ort_errors.RuntimeException) as error:
        raise StartError(BAD_MODEL, f"{path}: this ONNX Runtime cannot run it{where}: {_text(error)}") from error
    except (ort_errors.EPFail, RuntimeError, ValueError) as error:
        raise StartError(UNAVAILABLE, f"{config.provider} could not be started{where}: {_text(error)}") from error
    if config.provider not in session.get_providers():
        message = f"{config.provider} could not be started{where}: its driver or its libraries are missing or too old"
        raise StartError(UNAVAILABLE, message)
    inputs, outputs = (
        {node.name: ORT_TYPES.get(node.type, node.type) for node in nodes}
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    signature = config.model.signature
    check_tensors(inputs, outputs, signature)
    if config.cuda_graphs:
        return OnnxRuntimeSession(FixedSizes(session, signature, sizes, ("cuda", device or 0)), stoppable=False)
    return OnnxRuntimeSession(partial(session.run, list(signature.outputs)), stoppable=device is None)


def provider_options(config: ServerConfig, device: int | None) -> dict[str, str]:
    """The execution provider's settings for one session.

    Memory grows by the requested size, not to powers of two, because other sessions may share the device. Convolution
    algorithms are chosen by rule: trying all of them takes seconds at every new size, while a request waits. float32 is
    computed as float32, not as TF32 with its 10 bits, for which the verification would not hold.

    Source: ONNX Runtime's manual, "CUDA Execution Provider".
    """
    if device is None:
        return {}
    options = {"device_id": str(device)}
    if config.provider == CUDA:
        options |= {
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
            "enable_cuda_graph": str(int(config.cuda_graphs)),
        }
    return options


def _options(config: ServerConfig, threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, threads // len(config.sessions))
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _GRAPH_OPTIMIZATION[config.graph_optimization]
    options.log_severity_level = _NO_LOG
    # A spinning thread takes CPU time from the event loop, which shares the container's limit; only a measurement can allow it.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(config.spinning)))
    options.enable_cpu_mem_arena = config.memory_arena
    # Memory patterns are for a single shape; with varying sizes, they only cost time.
    options.enable_mem_pattern = not config.model.signature.dims
    return options


def _text(error: Exception) -> str:
    """The reason without the colours, prefix and newlines that ONNX Runtime adds."""
    return " ".join(str(error).split("Status Message: ")[-1].split(" : ", 3)[-1].split())
