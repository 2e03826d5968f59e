"""Inference requests and answers of the Open Inference Protocol v2 as JSON.

JSON has no NaN and no infinities: they are the texts `NaN`, `Infinity` and `-Infinity`, as in the JSON of protocol buffers, in
requests and answers. numpy reads these texts as the numbers, so other clients of the protocol understand them. In requests,
null is NaN too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from .config import ModelConfig
from .datatypes import Array, numpy_dtype
from .errors import RequestError
from .request import InferRequest, InputReader, RequestedOutput, check_parameters, requested_output, timeout_seconds
from .signature import Signature, Tensor

__all__ = [
    "TakeBytes",
    "answer_json",
    "array_from_list",
    "decode_json",
    "encode_json",
    "holds_words",
    "output_json",
    "parse_object",
    "request_from",
    "response_head",
]

TakeBytes = Callable[[Tensor, Any], Array]
"""(tensor, its `binary_data_size`) → the flat array in the next bytes."""


_PACKED_AS = {
    "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
    "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip

# numpy would convert a mixture of integers below and above 2**63 to floats, and texts to fixed-width texts.
_READ_AS = {"string": object, "uint64": object}

_NOT_FINITE = {None: np.nan, "NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}


def decode_json(body: bytes | bytearray, signature: Signature) -> InferRequest:
    """The request in a JSON body.

    Raises:
        RequestError: 400, saying what is wrong with it.
    """
    document = parse_object(body)
    return request_from(document, signature, None, words=holds_words(body))


def parse_object(body: bytes | bytearray | memoryview) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises:
        RequestError: 400; not JSON, too deeply nested, a number beyond the range of doubles, or not an object.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise RequestError(400, "the body must be a JSON object")
    return document


def holds_words(body: bytes | bytearray) -> bool:
    """Whether `true` or `false` may occur in a JSON text. Among numbers, numpy reads them as 1 and 0.

    Searching the text takes almost no time; checking each element takes as long as reading it.
    """
    # Searching for one byte first is twenty times as fast, and suffices for most requests.
    return (b"r" in body and b"true" in body) or (b"l" in body and b"false" in body)


def request_from(
    document: Mapping[str, Any], signature: Signature, take: TakeBytes | None, *, words: bool
) -> InferRequest:
    """The request in `document`.

    Args:
        document: the parsed JSON.
        signature: of the model.
        take: returns the data of an input after the JSON; None if there is none.
        words: whether `true` or `false` may occur in the data.

    Raises:
        RequestError: 400, saying what is wrong with it.
    """
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise RequestError(400, "id must be a string")
    parameters = check_parameters(document.get("parameters"), "the request")
    items = document.get("inputs")
    if not isinstance(items, list):
        raise RequestError(400, "inputs must be a list")
    reader = InputReader(signature)
    for item in items:
        if not isinstance(item, dict):
            raise RequestError(400, "each of inputs must be an object")
        tensor, shape = reader.declare(item.get("name"), item.get("datatype"), item.get("shape"))
        size = check_parameters(item.get("parameters"), f"input {tensor.name!r}").get("binary_data_size")
        if size is None:
            array = array_from_list(tensor, item.get("data"), shape, words=words)
        elif take is None:
            raise RequestError(
                400, f"input {tensor.name!r}: binary data requires the header Inference-Header-Content-Length"
            )
        else:
            array = take(tensor, size)
        reader.add(tensor, array, shape)
    rows = reader.finish()
    outputs = _wanted(document.get("outputs"), signature, binary=_flag(parameters, "binary_data_output", default=False))
    return InferRequest(request_id, reader.arrays, rows, outputs, timeout_seconds(parameters))


def _wanted(items: Any, signature: Signature, *, binary: bool) -> Sequence[RequestedOutput]:
    if items is None or items == []:
        return [RequestedOutput(tensor, binary) for tensor in signature.outputs.values()]
    if not isinstance(items, list):
        raise RequestError(400, "outputs must be a list")
    wanted: dict[str, RequestedOutput] = {}
    for item in items:
        if not isinstance(item, dict):
            raise RequestError(400, "each of outputs must be an object")
        name = item.get("name")
        parameters = check_parameters(item.get("parameters"), f"output {name!r}"[:80])
        output = requested_output(signature, name, binary=_flag(parameters, "binary_data", default=binary))
        if output.tensor.name in wanted:
            raise RequestError(400, f"duplicate output {output.tensor.name!r}")
        wanted[output.tensor.name] = output
    return list(wanted.values())


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(400, f"parameter {name!r} must be true or false")
    return value


@lru_cache(64)
def _packing(code: str, count: int) -> struct.Struct:
    """Converts `count` Python numbers at once: a quarter of the time that numpy takes, and it checks them too."""
    return struct.Struct(f"<{count}{code}")


def array_from_list(tensor: Tensor, data: Any, shape: tuple[int, ...], *, words: bool = False) -> Array:
    """A list, flat in row-major order or nested like `shape`, as an array of the tensor's type.

    Raises:
        RequestError: 400; not a list, nested otherwise, or elements of another kind.
    """
    if not isinstance(data, list):
        raise RequestError(400, f"input {tensor.name!r}: data must be a list")
    code = _PACKED_AS.get(tensor.dtype)
    if code is not None and not words:
        try:
            return np.frombuffer(_packing(code, len(data)).pack(*data), dtype=tensor.dtype)
        except (struct.error, OverflowError):
            pass  # nested, or of different kinds: the code below takes longer, but can handle or report it
    try:
        array = np.array(data, dtype=_READ_AS.get(tensor.dtype))
    except ValueError as error:
        raise RequestError(400, f"input {tensor.name!r}: data is nested unevenly or too deeply") from error
    # An empty list has no definite depth: [] and [[], []] both represent a shape with a zero.
    if array.ndim != 1 and array.shape != shape and array.size:
        raise RequestError(
            400, f"input {tensor.name!r}: data is nested as {list(array.shape)}, but shape is {list(shape)}"
        )
    if words and array.dtype.kind in "iuf" and any(type(item) is bool for item in np.array(data, dtype=object).flat):
        raise _wrong_type(tensor, "either numbers or true and false")
    if array.dtype.kind == "f" and tensor.dtype.startswith(("int", "uint")):
        array = np.array(data, dtype=object)  # numpy rounds large integers in a list with fractions
        return _exact_integers(tensor, array)
    if array.dtype.kind in "OU" and tensor.dtype.startswith("float"):
        array = _with_not_finite(tensor, np.array(data, dtype=object))
    return _convert(tensor, array)


def _with_not_finite(tensor: Tensor, array: Array) -> Array:
    """Numbers among which there are texts or null."""
    numbers = np.empty(array.shape, np.float64)
    for place, item in enumerate(array.flat):
        if type(item) in (int, float):
            numbers.flat[place] = item
        elif item is None or (type(item) is str and item in _NOT_FINITE):
            numbers.flat[place] = _NOT_FINITE[item]
        else:
            raise _wrong_type(tensor, 'numbers, or "NaN", "Infinity" and "-Infinity"')
    return numbers


def _wrong_type(tensor: Tensor, wanted: str) -> RequestError:
    return RequestError(400, f"input {tensor.name!r}: {tensor.datatype} data must be {wanted}")


def _floats(tensor: Tensor, array: Array) -> Array:
    if array.dtype.kind not in "iuf":
        raise _wrong_type(tensor, "numbers")
    try:
        with np.errstate(over="raise"):
            return array.astype(numpy_dtype(tensor.dtype))
    except FloatingPointError as error:
        raise RequestError(400, f"input {tensor.name!r}: a number is too large for {tensor.datatype}") from error


def _integers(tensor: Tensor, array: Array) -> Array:
    dtype = numpy_dtype(tensor.dtype)
    if array.size == 0:
        return array.astype(dtype)
    if array.dtype.kind not in "iu":
        raise _wrong_type(tensor, "whole numbers in its range")
    limits = np.iinfo(dtype)
    if int(array.min()) < limits.min or int(array.max()) > limits.max:
        raise RequestError(
            400, f"input {tensor.name!r}: {tensor.datatype} data must be from {limits.min} to {limits.max}"
        )
    return array.astype(dtype)


def _exact_integers(tensor: Tensor, array: Array) -> Array:
    """Integers from Python's own numbers; 2.0 is the integer 2, as in JSON Schema.

    Not beyond 2**53: the parser also converts integers with more than 64 bits to such floats, rounded.
    """
    limits = np.iinfo(numpy_dtype(tensor.dtype))
    low, high = int(limits.min), int(limits.max)
    exact = np.empty(array.shape, numpy_dtype(tensor.dtype))
    for place, item in enumerate(array.flat):
        whole = type(item) is int or (type(item) is float and item.is_integer() and abs(item) <= 1 << 53)
        if not whole or not low <= int(item) <= high:
            raise _wrong_type(tensor, f"whole numbers from {low} to {high}")
        exact.flat[place] = int(item)
    return exact


def _booleans(tensor: Tensor, array: Array) -> Array:
    if array.size == 0:
        return array.astype(np.bool_)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu" and int(array.min()) >= 0 and int(array.max()) <= 1:
        return array.astype(np.bool_)
    raise _wrong_type(tensor, "true or false, or 1 or 0")


def _strings(tensor: Tensor, array: Array) -> Array:
    if not all(type(item) is str for item in array.flat):
        raise _wrong_type(tensor, "texts")
    return array


def _convert(tensor: Tensor, array: Array) -> Array:
    match tensor.dtype:
        case "string":
            return _strings(tensor, array)
        case "bool":
            return _booleans(tensor, array)
        case "uint64":
            return _exact_integers(tensor, array)
        case "float16" | "float32" | "float64":
            return _floats(tensor, array)
        case _:
            return _integers(tensor, array)


def response_head(model: ModelConfig, request_id: str) -> dict[str, Any]:
    """An answer's fields other than the outputs."""
    head: dict[str, Any] = {"model_name": model.name, "model_version": model.version}
    if request_id:
        head["id"] = request_id
    return head


def output_json(tensor: Tensor, array: Array) -> dict[str, Any]:
    """One output with its data for `answer_json`: flat, in row-major order."""
    flat = array.ravel()
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(array.shape),
        "data": flat.tolist() if flat.dtype == object else flat,
    }


def encode_json(model: ModelConfig, request: InferRequest, outputs: Mapping[str, Array]) -> bytes:
    """The answer's body."""
    described = [output_json(wanted.tensor, outputs[wanted.tensor.name]) for wanted in request.outputs]
    return answer_json(response_head(model, request.id) | {"outputs": described})


def answer_json(document: dict[str, Any]) -> bytes:
    """An answer as JSON; numbers that are not finite as texts."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" not in body:  # as which orjson writes them
        return body
    for output in document["outputs"]:
        data = output.get("data")
        if isinstance(data, np.ndarray) and data.dtype.kind == "f" and not np.isfinite(data).all():
            output["data"] = [_finite_or_text(number) for number in data.tolist()]
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _finite_or_text(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
