"""Says what goes into an ONNX model and what comes out, by the names that a spec has for element types."""

from __future__ import annotations

from typing import Any

import onnx

from orchestrator.artifacts.inspection import FoundTensor
from orchestrator.frameworks.source.dtypes import STRING

__all__ = ["SERVED", "found_tensor"]

_NAMES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.STRING: STRING,
}
SERVED = frozenset(
    {
        *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64", "bool", STRING),
    }
)
"""Element types that ONNX Runtime's Python interface and the servers' protocols have."""


def found_tensor(value: Any) -> FoundTensor:
    """An input or output (a ValueInfoProto) as the model says it.

    What is no dense tensor has a type such as `seq(map(int64, float32))`, and no shape.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return FoundTensor(value.name, _type_name(value.type), None)
    tensor = value.type.tensor_type
    shape = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return FoundTensor(value.name, _type_name(value.type), shape)


def _dim(dim: Any) -> int | str | None:
    # Some producers write -1 for an open dimension.
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def _type_name(kind: Any) -> str:
    match kind.WhichOneof("value"):
        case "tensor_type":
            return _element(kind.tensor_type.elem_type)
        case "sparse_tensor_type":
            return f"sparse_tensor({_element(kind.sparse_tensor_type.elem_type)})"
        case "sequence_type":
            return f"seq({_type_name(kind.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_type_name(kind.optional_type.elem_type)})"
        case "map_type":
            return f"map({_element(kind.map_type.key_type)}, {_type_name(kind.map_type.value_type)})"
        case _:
            return "of no type that the model says"


def _element(kind: int) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    try:
        return str(onnx.TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return f"type {kind}"
