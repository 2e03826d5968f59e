"""The inputs and outputs of an ONNX model, and their comparison with the declared ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

import onnx

from orchestrator.artifacts.inspection import FoundTensor
from orchestrator.frameworks.source.samples import STRING
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.onnx.file import GivenModel
    from orchestrator.spec.signature import Signature, Tensor
    from orchestrator.steps.parameters import TensorNames

__all__ = ["SERVED", "Names", "check_declared", "found_tensor", "output_remedy", "served_input", "tensor_names"]

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
"""Element types that both ONNX Runtime's Python interface and the servers' protocols support."""


def found_tensor(value: Any) -> FoundTensor:
    """An input or output (a ValueInfoProto) as the model declares it.

    Anything but a dense tensor has a type such as `seq(map(int64, float32))`, and no shape.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return FoundTensor(value.name, _type_name(value.type), None)
    tensor = value.type.tensor_type
    shape = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return FoundTensor(value.name, _type_name(value.type), shape)


def _dim(dim: Any) -> int | str | None:
    # Some producers write -1 for an open dimension, others call each of them "?".
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    name = str(dim.dim_param)
    return name if any(character.isalnum() for character in name) else None


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
            return "of an unstated type"


def _element(kind: int) -> str:
    if kind in _NAMES:
        return _NAMES[kind]
    try:
        return str(onnx.TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return f"type {kind}"


Role = Literal["inputs", "outputs"]
Names = Mapping[Role, dict[str, str]]
"""By role: name in the spec → the model's own, in the signature's order."""


def tensor_names(named: TensorNames, signature: Signature) -> Names:
    """The model's own names if `named` has them, otherwise the spec's."""
    return {
        "inputs": {t.name: named.inputs.get(t.name, t.name) for t in signature.inputs},
        "outputs": {t.name: named.outputs.get(t.name, t.name) for t in signature.outputs},
    }


def served_input(tensor: FoundTensor) -> FoundTensor:
    """The tensor, if requests can carry it.

    Raises:
        StepError: E362.
    """
    if tensor.dtype in SERVED:
        return tensor
    what = "tensors of a served type" if "(" in tensor.dtype else "another type, and cast it at its beginning"
    raise StepError(
        "E362",
        f"the model's input `{tensor.tensor}` is {tensor.dtype}, which no request can carry",
        remedy=f"let the model take {what}: {', '.join(sorted(SERVED))}",
        at=("model", "source"),
    )


def output_remedy(tensor: FoundTensor) -> str:
    """How to change an output that responses cannot carry."""
    if tensor.dtype.startswith("seq(map("):
        return (
            f"`{tensor.tensor}` is a list of dictionaries, which scikit-learn's ZipMap makes: convert the model with "
            "options={'zipmap': False}, and it is an array"
        )
    if "(" in tensor.dtype:
        return f"`{tensor.tensor}` is {tensor.dtype}: let the model return tensors"
    return f"`{tensor.tensor}` is {tensor.dtype}: end the model with a Cast to another type"


def check_declared(model: GivenModel, signature: Signature, names: Names) -> list[str]:
    """Check that the model has the declared tensors and needs no other inputs.

    Returns:
        Notes on outputs of the model that are not declared.

    Raises:
        StepError: E362 a tensor cannot be served, E363 the model does not have it or defines it differently.
    """
    inputs = {value.name: served_input(found_tensor(value)) for value in model.inputs}
    outputs = {value.name: found_tensor(value) for value in model.proto.graph.output}
    for number, tensor in enumerate(signature.inputs):
        found = _found("inputs", number, names["inputs"][tensor.name], inputs)
        _check_type(number, tensor, found)
        _check_shape(number, tensor, found, signature)
    for number, tensor in enumerate(signature.outputs):
        found = _found("outputs", number, names["outputs"][tensor.name], outputs)
        if found.dtype not in SERVED:
            raise StepError(
                "E362",
                f"the model's output `{found.tensor}` is {found.dtype}, which no response can carry",
                remedy=f"{output_remedy(found)}; or declare only the other outputs in `outputs:`",
                at=("model", "outputs", number),
            )
    if lacking := [name for name in inputs if name not in names["inputs"].values()]:
        raise _differs(
            f"the model also takes {_listed(lacking)}, for which nothing is declared",
            ("model", "inputs"),
            remedy=f"add {_listed(lacking)} to `inputs:`, or leave `inputs` out to have all of them read from the model",
        )
    for role in ("inputs", "outputs"):
        _check_once(role, names[role])
    _check_apart(names)
    left_out = [tensor for name, tensor in outputs.items() if name not in names["outputs"].values()]
    return [f"source: the model's output `{tensor.tensor}` ({tensor.dtype}) is not served" for tensor in left_out]


def _found(role: Role, number: int, own: str, there: Mapping[str, FoundTensor]) -> FoundTensor:
    if own in there:
        return there[own]
    close = get_close_matches(own, there, n=1)
    raise _differs(
        f"the model has no {role[:-1]} `{own}`",
        ("model", role, number, "name"),
        cause=f"its {role} are {_listed(there)}",
        remedy=f"did you mean `{close[0]}`?" if close else "",
    )


def _check_type(number: int, tensor: Tensor, found: FoundTensor) -> None:
    if tensor.dtype != found.dtype:
        raise _differs(
            f"`{tensor.name}` is {found.dtype} in the model, but {tensor.dtype} is declared",
            ("model", "inputs", number, "dtype"),
        )


def _check_shape(number: int, tensor: Tensor, found: FoundTensor, signature: Signature) -> None:
    declared = tensor.shape or ()
    if found.shape is None:
        return
    at = ("model", "inputs", number, "shape")
    if len(found.shape) != len(declared):
        raise _differs(
            f"`{tensor.name}` has {len(found.shape)} dimensions in the model, but {len(declared)} are declared", at
        )
    for axis, (size, dim) in enumerate(zip(found.shape, declared, strict=True)):
        low, high = signature.dims[dim] if isinstance(dim, str) else (dim, dim)
        if isinstance(size, int) and (low, high) != (size, size):
            wanted = f"`{dim}` from {low} to {high}" if isinstance(dim, str) else str(dim)
            raise _differs(
                f"dimension {axis} of `{tensor.name}` is {size} in the model, but {wanted} is declared", (*at, axis)
            )


def _check_once(role: Role, names: Mapping[str, str]) -> None:
    for number, (name, own) in enumerate(names.items()):
        first = next(other for other, same in names.items() if same == own)
        if first != name:
            raise _differs(f"`{first}` and `{name}` are the same tensor `{own}`", ("model", role, number))


def _check_apart(names: Names) -> None:
    for number, name in enumerate(names["outputs"]):
        if name in names["inputs"]:
            raise _differs(
                f"`{name}` names both an input and an output, but in ONNX no two tensors may share a name",
                ("model", "outputs", number),
                remedy=f"rename one of them: `outputs: [{{name: {name}_out, tensor: {names['outputs'][name]!r}}}, ...]`",
            )


def _differs(message: str, at: tuple[str | int, ...], *, cause: str = "", remedy: str = "") -> StepError:
    return StepError(
        "E363",
        message,
        cause=cause,
        remedy=remedy or f"correct it, or leave `{at[1]}` out to have them read from the model",
        at=at,
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"
