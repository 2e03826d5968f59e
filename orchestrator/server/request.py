"""Inference requests and answers as values, independent of the wire format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .datatypes import Array
from .errors import RequestError
from .signature import Signature, Tensor

__all__ = [
    "UNSUPPORTED_PARAMETERS",
    "InferRequest",
    "InputReader",
    "RequestedOutput",
    "check_parameters",
    "requested_output",
    "timeout_seconds",
]

_MAX_ELEMENTS = 1 << 31  # so that no product of sizes overflows


# Parameters of extensions that change the meaning of a request; ignoring them would give a wrong answer.
UNSUPPORTED_PARAMETERS = ("sequence_id", "shared_memory_region", "classification")


class RequestedOutput(NamedTuple):
    """An output in the answer, as raw bytes or in JSON (or the protocol's typed fields)."""

    tensor: Tensor
    binary: bool


class InferRequest(NamedTuple):
    """A checked request.

    Attributes:
        id: the client's identifier, returned in the answer; may be empty.
        inputs: all inputs of the signature, with its shapes and element types.
        rows: the size of the batch dimension, 1 for a model without one.
        outputs: the outputs in the answer, in this order.
        timeout_s: how long the client waits; None if it is not stated.
    """

    id: str
    inputs: Mapping[str, Array]
    rows: int
    outputs: Sequence[RequestedOutput]
    timeout_s: float | None


class InputReader:
    """Checks the inputs of one request against the signature as they are read, before their data is touched."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._sizes: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}

    def declare(self, name: Any, datatype: Any, shape: Any) -> tuple[Tensor, tuple[int, ...]]:
        """The tensor and shape that an input's head declares.

        Raises:
            RequestError: 400; unknown or repeated input, another element type, a shape outside the signature.
        """
        tensor = self._signature.inputs.get(name) if isinstance(name, str) else None
        if tensor is None:
            have = ", ".join(map(repr, self._signature.inputs))
            raise RequestError(400, f"the model has no input {_short(name)}; its inputs are {have}")
        if name in self.arrays:
            raise RequestError(400, f"duplicate input {name!r}")
        if datatype != tensor.datatype:
            raise RequestError(400, f"input {name!r}: datatype must be {tensor.datatype!r}, not {_short(datatype)}")
        listed = type(shape) is list or (isinstance(shape, Sequence) and not isinstance(shape, str))
        if not listed or len(shape) > 64:
            raise RequestError(400, f"input {name!r}: shape must be a list of sizes, not {_short(shape)}")
        elements = 1
        for size in shape:
            if type(size) is not int or size < 0:
                raise RequestError(400, f"input {name!r}: shape must be a list of sizes, not {_short(shape)}")
            elements *= size
        if elements > _MAX_ELEMENTS:
            raise RequestError(400, f"input {name!r}: shape {_short(shape)} has more than {_MAX_ELEMENTS} elements")
        sizes = tuple(shape)
        self._signature.check_shape(tensor, sizes, self._sizes)
        return tensor, sizes

    def add(self, tensor: Tensor, array: Array, shape: tuple[int, ...]) -> None:
        """Add an input's elements, in row-major order.

        Raises:
            RequestError: 400; their number does not fit `shape`.
        """
        if array.size != math.prod(shape):
            raise RequestError(
                400, f"input {tensor.name!r}: shape {list(shape)} needs {math.prod(shape)} elements, not {array.size}"
            )
        self.arrays[tensor.name] = array.reshape(shape)

    def finish(self) -> int:
        """The number of rows, once every input has been read into `arrays`.

        Raises:
            RequestError: 400; an input is missing.
        """
        if len(self.arrays) < len(self._signature.inputs):
            missing = next(name for name in self._signature.inputs if name not in self.arrays)
            raise RequestError(400, f"input {missing!r} is missing")
        if len(self.arrays) > 1:
            # In the signature's order, so that requests with another order have equal keys.
            self.arrays = {name: self.arrays[name] for name in self._signature.inputs}
        return 1 if self._signature.batch is None else self._sizes[self._signature.batch]


def check_parameters(parameters: Any, where: str) -> Mapping[str, Any]:
    """The `parameters` of a request or a tensor; unknown ones are ignored.

    Raises:
        RequestError: 400; not an object, or an unsupported extension that would change the answer.
    """
    if parameters is None:
        return {}
    if type(parameters) is not dict and not isinstance(parameters, Mapping):
        raise RequestError(400, f"{where}: parameters must be an object, not {_short(parameters)}")
    for name in UNSUPPORTED_PARAMETERS:
        if parameters.get(name):
            raise RequestError(400, f"{where}: parameter {name!r} is not supported")
    return parameters


def timeout_seconds(parameters: Mapping[str, Any]) -> float | None:
    """The request parameter `timeout` (microseconds) in seconds; None if there is none, or 0.

    Raises:
        RequestError: 400; not a number of microseconds.
    """
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if type(value) is not int or value < 0:
        raise RequestError(400, f"parameter 'timeout' must be a number of microseconds, not {_short(value)}")
    return value / 1e6


def requested_output(signature: Signature, name: Any, *, binary: bool) -> RequestedOutput:
    """The output that a request names.

    Raises:
        RequestError: 400; the model has no output with that name.
    """
    if not isinstance(name, str) or name not in signature.outputs:
        have = ", ".join(map(repr, signature.outputs))
        raise RequestError(400, f"the model has no output {_short(name)}; its outputs are {have}")
    return RequestedOutput(signature.outputs[name], binary)


def _short(value: Any) -> str:
    """A value sent by the client, shortened for a message."""
    text = repr(value) if not isinstance(value, Mapping) else "an object"
    return text if len(text) <= 80 else text[:77] + "..."
