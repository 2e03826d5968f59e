"""Inference requests and answers of the Open Inference Protocol v2 as gRPC messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .binary import from_bytes, to_bytes
from .config import ModelConfig
from .datatypes import Array
from .errors import RequestError
from .open_inference_pb2 import ModelInferResponse
from .protocol import array_from_list
from .request import InferRequest, InputReader, check_parameters, requested_output, timeout_seconds
from .signature import Signature, Tensor

__all__ = ["decode_message", "encode_message"]

# FP16 has no typed field: it goes as raw bytes only.
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode_message(message: Any, signature: Signature) -> InferRequest:
    """The request in a `ModelInferRequest`.

    Raises:
        RequestError: 400, saying what is wrong with it.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(400, f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs")
    parameters = check_parameters(_parameters(message), "the request")
    reader = InputReader(signature)
    for index, item in enumerate(message.inputs):
        tensor, shape = reader.declare(item.name, item.datatype, list(item.shape))
        check_parameters(_parameters(item), f"input {tensor.name!r}")
        if raw:
            array = from_bytes(tensor, memoryview(raw[index]))
            reader.add(tensor, array, shape)
        else:
            reader.add(tensor, array_from_list(tensor, _contents(tensor, item.contents), shape), shape)
    rows = reader.finish()
    wanted = [requested_output(signature, item.name, binary=True) for item in message.outputs]
    for item in message.outputs:
        check_parameters(_parameters(item), f"output {item.name!r}"[:80])
    if len({output.tensor.name for output in wanted}) != len(wanted):
        raise RequestError(400, "an output is requested twice")
    if not wanted:
        wanted = [requested_output(signature, name, binary=True) for name in signature.outputs]
    return InferRequest(message.id, reader.arrays, rows, wanted, timeout_seconds(parameters))


def _contents(tensor: Tensor, contents: Any) -> list[Any]:
    field = _FIELDS.get(tensor.datatype)
    if field is None:
        raise RequestError(400, f"input {tensor.name!r}: {tensor.datatype} is only supported in raw_input_contents")
    values = list(getattr(contents, field))
    if tensor.dtype != "string":
        return values
    try:
        return [str(value, "utf-8") for value in values]
    except UnicodeDecodeError as error:
        raise RequestError(400, f"input {tensor.name!r}: an element is not UTF-8") from error


def _parameters(message: Any) -> dict[str, Any]:
    found = {}
    for name, value in message.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(value, kind)
    return found


def encode_message(model: ModelConfig, request: InferRequest, outputs: Mapping[str, Array]) -> Any:
    """The answer as a `ModelInferResponse`, its tensors as raw bytes."""
    answer = ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
    for wanted in request.outputs:
        array = outputs[wanted.tensor.name]
        answer.outputs.add(name=wanted.tensor.name, datatype=wanted.tensor.datatype, shape=array.shape)
        answer.raw_output_contents.append(to_bytes(array))
    return answer
