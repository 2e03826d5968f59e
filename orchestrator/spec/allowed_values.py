"""Checks that the `range` and the `values` of an input suit its type."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.document import SpecPath, span_of
from orchestrator.spec.models import ModelDeployment, TensorIn
from orchestrator.spec.yaml_tree import Node, quoted

__all__ = ["allowed_problems"]

_INTEGERS = {
    "int64": (-(2**63), 2**63 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int8": (-128, 127),
    "uint8": (0, 255),
}
_LARGEST_FLOAT = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}

_Value = bool | int | float | str


def allowed_problems(spec: ModelDeployment, root: Node) -> Iterator[Diagnostic]:
    """E137 for what an input cannot hold, E121 for an empty range, E122 for a value that is listed twice."""
    for index, tensor in enumerate(spec.model.inputs):
        at: SpecPath = ("model", "inputs", index)
        if tensor.range is not None and tensor.values is not None:
            yield Diagnostic(
                "E137",
                f"`{tensor.name}` has both a `range` and `values`",
                span_of(root, (*at, "values"), key=True),
                label="`values` alone say what it may hold",
                remedy="remove one of the two",
            )
        elif tensor.range is not None:
            yield from _range_problems(tensor, tensor.range, root, (*at, "range"))
        elif tensor.values is not None:
            yield from _value_problems(tensor, tensor.values, root, (*at, "values"))
        elif tensor.enforce:
            yield Diagnostic(
                "E137",
                f"`{tensor.name}` has neither a `range` nor `values`",
                span_of(root, (*at, "enforce"), key=True),
                label="nothing to check requests against",
                remedy="add `range: [SMALLEST, LARGEST]` or `values: [...]`, or remove `enforce`",
            )


def _range_problems(tensor: TensorIn, ends: list[int | float], root: Node, at: SpecPath) -> Iterator[Diagnostic]:
    if tensor.dtype in ("bool", "string"):
        yield Diagnostic(
            "E137",
            f"`{tensor.name}` is {tensor.dtype}, which has no range",
            span_of(root, at, key=True),
            label="only numbers have a range",
            remedy=f"list what it may hold: `values: [{'true' if tensor.dtype == 'bool' else 'TEXT, ...'}]`",
        )
        return
    problems = [found for axis, end in enumerate(ends) if (found := _unsuitable(tensor, end, root, (*at, axis)))]
    yield from problems
    if not problems and ends[0] > ends[1]:
        yield Diagnostic(
            "E121",
            f"`{tensor.name}` ranges from {ends[0]} to {ends[1]}",
            span_of(root, at),
            label="the first number is greater than the second",
            remedy=f"write the smallest first: `range: [{ends[1]}, {ends[0]}]`",
        )


def _value_problems(tensor: TensorIn, values: list[_Value], root: Node, at: SpecPath) -> Iterator[Diagnostic]:
    for axis, value in enumerate(values):
        if found := _unsuitable(tensor, value, root, (*at, axis)):
            yield found
        elif value in values[:axis]:
            yield Diagnostic("E122", f"duplicate value {quoted(value)}", span_of(root, (*at, axis)), remedy="remove it")


def _unsuitable(tensor: TensorIn, value: _Value, root: Node, at: SpecPath) -> Diagnostic | None:
    """Why an element of the tensor's type cannot be `value`; None if it can."""
    dtype = tensor.dtype
    label, remedy = _why_not(dtype, value)
    if not label:
        return None
    shown = quoted(str(value).lower() if isinstance(value, bool) else value)
    return Diagnostic(
        "E137", f"`{tensor.name}` is {dtype} and cannot hold {shown}", span_of(root, at), label, remedy=remedy
    )


def _why_not(dtype: str, value: _Value) -> tuple[str, str]:
    """The label and the remedy; both empty if the value is one of the type's."""
    if dtype == "string":
        return ("", "") if isinstance(value, str) else ("not a text", f'put quotes around it: "{value}"')
    if dtype == "bool":
        return ("", "") if isinstance(value, bool) else ("not `true` or `false`", "write `true` or `false`")
    if isinstance(value, bool | str):
        quotes = isinstance(value, str) and value.lstrip("+-").replace(".", "", 1).isdigit()
        return "not a number", "remove the quotes" if quotes else "write a number"
    if dtype in _INTEGERS and isinstance(value, float):
        return "not a whole number", "write a whole number" + (f": {int(value)}" if value.is_integer() else "")
    largest = _LARGEST_FLOAT.get(dtype, 0.0)
    low, high = _INTEGERS.get(dtype, (-largest, largest))
    if low <= value <= high:
        return "", ""
    return f"{dtype} holds numbers from {low} to {high}", "keep to the type's range, or correct `dtype`"
