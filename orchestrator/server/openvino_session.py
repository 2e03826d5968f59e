"""The model in OpenVINO, on the CPU: opened as configured or not at all, and run.

OpenVINO reads ONNX itself. Here it computes float32 as float32: by default it uses bfloat16 or float16 on CPUs that are
faster with them, for which the verification would not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import ServerConfig
from .datatypes import Array
from .errors import BAD_MODEL, RequestError, StartError
from .openvino_engine import compile_settings, openvino, unfit_values
from .session import check_tensors

__all__ = ["OpenVinoSession", "open_session"]

_DTYPES = {
    openvino.Type.boolean: "bool",
    **{getattr(openvino.Type, f"i{bits}"): f"int{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(openvino.Type, f"u{bits}"): f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(openvino.Type, f"f{bits}"): f"float{bits}" for bits in (16, 32, 64)},
    openvino.Type.string: "string",
}
"""OpenVINO's element type → numpy's name."""

_INEXACT = {
    "float64": "computes float64 as float32",
    "uint64": "computes uint64 with 32 bits",
    "string": "has no operators for strings",
}
"""dtype → how OpenVINO's CPU plugin treats it, which is why it is not served."""


class OpenVinoSession:
    """One compiled model with one request; see `session.Session`."""

    stoppable = None

    def __init__(self, compiled: Any, outputs: list[str]) -> None:
        """Wrap a compiled model.

        Args:
            compiled: the model.
            outputs: their names in the signature's order.
        """
        self._request = compiled.create_infer_request()
        self._outputs = [compiled.output(name) for name in outputs]

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session.run`.

        int64 is computed with 32 bits, so larger values are refused. Unlike ONNX Runtime, OpenVINO reads zeros for an index
        outside a table.
        """
        if unfit := unfit_values(inputs):
            raise RequestError(400, unfit, reason="refused")
        try:
            # Inputs and outputs are copied, because the next call uses the same memory.
            answer = self._request.infer({name: np.asarray(array, order="C") for name, array in inputs.items()})
        except RuntimeError as error:
            raise RequestError(500, f"the model failed: {_text(error)}", reason="failed") from error
        return [answer[output] for output in self._outputs]


def open_session(config: ServerConfig, threads: int) -> OpenVinoSession:
    """Compile the model for the CPU with its share of `threads`.

    Raises:
        StartError: `BAD_MODEL` if the file cannot be loaded, OpenVINO does not compute a dtype exactly, or its inputs and
            outputs are not the signature's.
    """
    path, signature = config.model.file, config.model.signature
    for tensor in (*signature.inputs.values(), *signature.outputs.values()):
        if tensor.dtype in _INEXACT:
            raise StartError(BAD_MODEL, f"{tensor.name!r} is {tensor.dtype}, and OpenVINO {_INEXACT[tensor.dtype]}")
    try:
        settings = compile_settings(max(1, threads // len(config.sessions)))
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise StartError(BAD_MODEL, f"{path}: OpenVINO does not load it: {_text(error)}") from error
    inputs, outputs = (
        {name: _DTYPES.get(port.element_type, str(port.element_type)) for port in ports for name in port.names}
        for ports in (compiled.inputs, compiled.outputs)
    )
    wanted = {name: dtype for name, dtype in inputs.items() if name in signature.inputs}
    check_tensors(wanted if len(wanted) == len(compiled.inputs) else inputs, outputs, signature)
    return OpenVinoSession(compiled, list(signature.outputs))


def _text(error: Exception) -> str:
    """The reason, without lines about OpenVINO's source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [line for line in lines if not line.startswith(("Exception from ", "FrontEnd API failed"))]
    return " ".join(informative or lines)
