"""Reads what a PyTorch file says of its inputs and outputs, without running it, for a spec that is being drafted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from orchestrator.artifacts.inspection import FoundTensor, FoundWeights, Inspection
from orchestrator.frameworks.pytorch.source import load_exported_program, load_torchscript
from orchestrator.frameworks.pytorch.weights import find_state_dict

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.steps import StepContext

__all__ = ["inspect"]

_SHOWN = 4

_UNBOUNDED = 2**31
"""What a range ends at whose end the exporter did not know; the largest size that a spec can hold."""


def inspect(context: StepContext) -> dict[str, Any]:
    """The step `inspect` for the source kinds of PyTorch, whose specs have to say inputs and outputs by themselves.

    An exported program says them exactly. A TorchScript archive says how many there are and what its code calls them,
    with no type or shape (`dtype` is the empty text then). A state dict says neither: `weights` has what it does say.

    Raises:
        StepError: E301-E304, E308 the file.
    """
    weights = context.inputs["weights"]
    kind = context.params["source"]["kind"]
    context.progress("reading the model")
    found = {"exported-program": _exported_program, "torchscript": _torchscript, "pytorch": _state_dict}[kind](weights)
    found.write(context.output)
    return {"inputs": [tensor.tensor for tensor in found.inputs], "outputs": [each.tensor for each in found.outputs]}


def _exported_program(weights: Path) -> Inspection:
    program = load_exported_program(weights)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    results = next(node for node in program.graph.nodes if node.op == "output").meta.get("val")
    returned = dict(zip((spec.arg.name for spec in program.graph_signature.output_specs), results, strict=True))
    dims = _Dimensions()
    inputs = tuple(dims.tensor(str(name), values.get(name)) for name in program.graph_signature.user_inputs)
    dims.name_the_rest = False
    outputs = tuple(
        dims.tensor(key, returned.get(name))
        for key, name in zip(_output_names(program), program.graph_signature.user_outputs, strict=True)
    )
    ranges = {
        dims.names[str(symbol)]: (int(bounds.lower), int(bounds.upper) if bounds.upper < _UNBOUNDED else _UNBOUNDED)
        for symbol, bounds in program.range_constraints.items()
        if str(symbol) in dims.names
    }
    return Inspection(inputs=inputs, outputs=outputs, ranges=ranges, files=(), notes=tuple(dims.notes), weights=None)


def _output_names(program: Any) -> list[str]:
    """The keys of the dictionary that the model returns, or the graph's names without their numbers."""
    names = [str(name) for name in program.graph_signature.user_outputs]
    spec = program.call_spec.out_spec
    if spec is not None and spec.type is dict and spec.num_leaves == len(names):
        order = pytree.tree_unflatten(list(range(len(names))), spec)
        keys = {place: str(key) for key, place in order.items() if isinstance(place, int)}
        if len(keys) == len(names):
            return [keys[place] for place in range(len(names))]
    return ["output"] if len(names) == 1 else [f"output_{number}" for number in range(len(names))]


class _Dimensions:
    """Gives the symbols of an exported program names that say something: `batch`, or an input's name and the axis."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.notes: list[str] = []
        self.name_the_rest = True

    def tensor(self, name: str, value: Any) -> FoundTensor:
        if not isinstance(value, torch.Tensor):
            return FoundTensor(name, type(value).__name__, ())
        dtype = str(value.dtype).removeprefix("torch.")
        return FoundTensor(name, dtype, tuple(self._size(name, axis, size) for axis, size in enumerate(value.shape)))

    def _size(self, name: str, axis: int, size: Any) -> int | str | None:
        if isinstance(size, int):
            return size
        symbol = str(size)
        if symbol in self.names:
            return self.names[symbol]
        if not symbol.isidentifier():  # such as 2*s0: a spec's dimensions are free of each other
            if self.name_the_rest:
                self.notes.append(f"dimension {axis} of `{name}` is {symbol}, which a spec cannot say")
            return None
        if not self.name_the_rest:
            return None
        self.names[symbol] = "batch" if axis == 0 and "batch" not in self.names.values() else f"{name}_{axis}"
        return self.names[symbol]


def _torchscript(weights: Path) -> Inspection:
    schema = load_torchscript(weights).forward.schema
    inputs = tuple(_argument(each.name, each.type) for each in schema.arguments[1:] if not each.has_default_value())
    returned = [each.type for each in schema.returns]
    if len(returned) == 1 and returned[0].kind() == "TupleType":
        returned = returned[0].elements()
    notes = []
    if any(each.kind() != "TensorType" for each in returned):
        told = ", ".join(each.annotation_str for each in returned)
        notes.append(f"it returns {told}: its outputs are known once it is run, name each of them")
        returned = []
    names = ["output"] if len(returned) == 1 else [f"output_{number}" for number in range(len(returned))]
    outputs = tuple(FoundTensor(name, "", None) for name in names)
    return Inspection(inputs=inputs, outputs=outputs, ranges={}, files=(), notes=tuple(notes), weights=None)


def _argument(name: str, kind: Any) -> FoundTensor:
    if kind.kind() == "TensorType":
        return FoundTensor(name, "", None)
    return FoundTensor(name, str(kind.annotation_str), None)


def _state_dict(weights: Path) -> Inspection:
    key, tensors = find_state_dict(weights)
    # Files keep them by name or by size; 2 before 10 is the order in which layers are usually numbered.
    matrices = sorted((name for name, tensor in tensors.items() if tensor.ndim > 1), key=_natural)
    shown = tuple((name, tuple(tensors[name].shape)) for name in matrices[:_SHOWN])
    found = FoundWeights(key, shown, max(0, len(matrices) - _SHOWN))
    return Inspection(inputs=(), outputs=(), ranges={}, files=(), notes=(), weights=found)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
