"""Makes an exported ONNX file what was declared: names, dynamic axes, bytes that tell nothing of the machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnx

from orchestrator.frameworks.onnx.walk import bodies, graphs
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["LARGEST_ONNX_FILE", "finish"]

LARGEST_ONNX_FILE = 1900 * 2**20
"""Bytes of weights above which they go into a file of their own: a protobuf message ends at 2 GiB."""


def finish(path: Path, signature: Signature, *, checked: bool = True) -> dict[str, Any]:
    """Strip, rename and check the model at `path` in place; weights in a second file are left where they are.

    Node names, stack traces, documentation strings and the exporter's notes go (they hold paths of this machine), the
    dimensions get the names of the spec, and inputs and outputs are compared with the signature.

    Args:
        path: the file.
        signature: what it has to be.
        checked: whether ONNX's own checker has to take it; it refuses some models that ONNX Runtime runs, and such a
            source stays what it is.

    Returns:
        `{"opset": n, "nodes": n}`.

    Raises:
        StepError: E424, the file is not valid ONNX, or its inputs or outputs are not the declared ones.
    """
    model = onnx.load(str(path), load_external_data=False)
    _strip(model)
    _rename_dims(model, signature)
    onnx.save(model, str(path))
    try:
        if checked:
            onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise StepError(
            "E424", "the exporter wrote an invalid ONNX file", cause=str(error).strip().splitlines()[0]
        ) from error
    _compare("input", [_declared(value) for value in model.graph.input], signature.inputs, signature)
    _compare("output", [_declared(value) for value in model.graph.output], signature.outputs, signature)
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    return {"opset": opset, "nodes": len(model.graph.node)}


def _strip(model: Any) -> None:
    model.doc_string = ""
    del model.metadata_props[:]
    for body in bodies(model):
        _strip_all((body, *body.node, *body.value_info))
        for node in body.node:
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
    for graph in graphs(model.graph):
        _strip_all((*graph.initializer, *graph.input, *graph.output))


def _strip_all(parts: tuple[Any, ...]) -> None:
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _rename_dims(model: Any, signature: Signature) -> None:
    """Give the exporter's symbols (`s77`) the declared names, also inside expressions (`2*s77`)."""
    names: dict[str, str] = {}
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    for value in model.graph.input:
        declared = by_name.get(value.name)
        if declared is None or declared.shape is None:
            continue
        for dim, wanted in zip(value.type.tensor_type.shape.dim, declared.shape, strict=False):
            if dim.dim_param and isinstance(wanted, str):
                names[dim.dim_param] = wanted
    symbol = re.compile(r"[A-Za-z_]\w*")
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.dim_param = symbol.sub(lambda found: names.get(found[0], found[0]), dim.dim_param)


def _declared(value: Any) -> tuple[str, list[int | str]]:
    dims = value.type.tensor_type.shape.dim
    return value.name, [dim.dim_param or dim.dim_value for dim in dims]


def _compare(
    role: str, found: list[tuple[str, list[int | str]]], declared: tuple[Tensor, ...], signature: Signature
) -> None:
    names = [name for name, _ in found]
    wanted = [tensor.name for tensor in declared]
    if names != wanted:
        raise StepError("E424", f"the ONNX file has other {role}s than declared", cause=f"{names} instead of {wanted}")
    for (name, shape), tensor in zip(found, declared, strict=True):
        for axis, dim in enumerate(tensor.shape or ()):
            if not isinstance(dim, str) or signature.dims[dim][0] == signature.dims[dim][1]:
                continue
            if axis >= len(shape) or isinstance(shape[axis], int):
                size = shape[axis] if axis < len(shape) else "absent"
                raise StepError(
                    "E424",
                    f"the conversion fixed dimension {dim} of {role} {name} at {size}",
                    remedy=f"take sizes from the tensor's shape in the model's code, or declare dimension {dim} as {size}",
                    at=("model", "dims", dim),
                )
