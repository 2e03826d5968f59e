"""Reads a LiteRT file without running it: its tensors, its operators, its parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TfliteFile", "TfliteTensor", "read"]

DEFAULT_SIGNATURE = "serving_default"

_DTYPES = {number: name.lower() for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
_OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
_FLEX = "Flex"
"""The prefix of TensorFlow's own operators ("Select TF ops"), which need another runtime."""


@dataclass(frozen=True, slots=True)
class TfliteTensor:
    """An input or output of the model's first graph.

    Attributes:
        name: in the model's signature; the same as `tensor` in a model without signatures.
        tensor: the tensor's own name, which converters from LiteRT use.
        index: the tensor's number in the interpreter.
        dtype: as in a spec (`float32`, `int8`, `string`), or LiteRT's name of a type that specs do not have.
        shape: None for an open dimension.
        scale, zero_point: a quantized value means (value - zero_point) x scale; scale is None if it is not quantized.
    """

    name: str
    tensor: str
    index: int
    dtype: str
    shape: tuple[int | None, ...]
    scale: float | None
    zero_point: int


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """The content of the file.

    Attributes:
        inputs, outputs: in the order of the first graph, which is the one that is run.
        other_signatures: names of the signatures of other graphs.
        operators: names of the used operators of LiteRT itself, such as `CONV_2D`.
        custom_operators: names of operators that are neither LiteRT's nor TensorFlow's.
        tensorflow_operators: names of TensorFlow's operators, which need its kernels ("Select TF ops").
        parameters: the number of values stored in the file's tensors.
        keeps_state: whether some tensors keep their values from one call to the next, unless they are reset.
        writes_variables: whether a call leaves values in variables for the next, which nothing resets.
        quantized: whether weights are stored as integers with a scale.
    """

    inputs: tuple[TfliteTensor, ...]
    outputs: tuple[TfliteTensor, ...]
    other_signatures: tuple[str, ...]
    operators: frozenset[str]
    custom_operators: tuple[str, ...]
    tensorflow_operators: tuple[str, ...]
    parameters: int
    keeps_state: bool
    writes_variables: bool
    quantized: bool


def read(path: Path) -> TfliteFile:
    """Read the model at `path`, which LiteRT must have opened before: only a verified flatbuffer is safe to read.

    Raises:
        ValueError: an input or output of the graph is a tensor that it does not have; LiteRT does not verify this.
    """
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    inputs, outputs, others = _signatures(model)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    custom = sorted({_text(code.CustomCode()) for code in codes if code.CustomCode()})
    # Graphs may share stored values, so they are counted by their offset.
    stored = {tensor.Buffer(): tensor for tensor in _all_tensors(model) if _is_stored(model, tensor)}
    return TfliteFile(
        inputs=_tensors(graph, [graph.Inputs(i) for i in range(graph.InputsLength())], inputs, every=True),
        outputs=_tensors(graph, [graph.Outputs(i) for i in range(graph.OutputsLength())], outputs, every=not outputs),
        other_signatures=others,
        operators=frozenset(_OPERATORS.get(_builtin(code), "unknown") for code in codes if not code.CustomCode()),
        custom_operators=tuple(name for name in custom if not name.startswith(_FLEX)),
        tensorflow_operators=tuple(name.removeprefix(_FLEX) for name in custom if name.startswith(_FLEX)),
        parameters=sum(_size(tensor) for tensor in stored.values()),
        keeps_state=any(tensor.IsVariable() for tensor in _all_tensors(model)),
        writes_variables=_writes_variables(model, codes),
        quantized=any(_scales(tensor) for tensor in stored.values()),
    )


def _writes_variables(model: Any, codes: list[Any]) -> bool:
    """Whether a graph assigns variables, other than those that only give them their first values."""
    once: set[int] = set()
    assigns: set[int] = set()
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for each in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            name = _OPERATORS.get(_builtin(codes[each.OpcodeIndex()]))
            if name == "ASSIGN_VARIABLE":
                assigns.add(number)
            elif name == "CALL_ONCE":
                options = schema.CallOnceOptions()
                options.Init(each.BuiltinOptions().Bytes, each.BuiltinOptions().Pos)
                once.add(options.InitSubgraphIndex())
    return bool(assigns - once)


_Names = dict[int, list[str]]
"""A tensor's number → its names in the signature; it may have several."""


def _signatures(model: Any) -> tuple[_Names, _Names, tuple[str, ...]]:
    """The names of the first graph's inputs and outputs, and of the signatures of other graphs."""
    found = [model.SignatureDefs(i) for i in range(model.SignatureDefsLength())]
    first = [each for each in found if each.SubgraphIndex() == 0]
    first.sort(key=lambda each: _text(each.SignatureKey()) != DEFAULT_SIGNATURE)
    others = tuple(sorted(_text(each.SignatureKey()) for each in found if each.SubgraphIndex() != 0))
    if not first:
        return {}, {}, others
    chosen = first[0]
    return (
        _named(chosen.Inputs(i) for i in range(chosen.InputsLength())),
        _named(chosen.Outputs(i) for i in range(chosen.OutputsLength())),
        others,
    )


def _named(entries: Iterator[Any]) -> _Names:
    names: _Names = {}
    for entry in entries:
        names.setdefault(entry.TensorIndex(), []).append(_text(entry.Name()))
    return names


def _tensors(
    graph: Any, indexes: list[int], names: Mapping[int, list[str]], *, every: bool
) -> tuple[TfliteTensor, ...]:
    """The graph's tensors at `indexes`.

    Args:
        graph: the graph with these tensors.
        indexes: their numbers, possibly with duplicates.
        names: from the signature.
        every: whether to include tensors that the signature does not name, under their own names.
    """
    if any(not 0 <= index < graph.TensorsLength() for index in indexes):
        raise ValueError(
            f"an input or output is a tensor that the graph does not have: {indexes} of {graph.TensorsLength()}"
        )
    own = {index: _text(graph.Tensors(index).Name()) for index in indexes}
    shared = Counter(own.values())
    tensors: dict[str, TfliteTensor] = {}
    for position, index in enumerate(indexes):
        plain = own[index] if own[index] and shared[own[index]] == 1 else f"tensor_{position}"
        for name in names.get(index, [plain] if every else []):
            tensors.setdefault(name, _tensor(graph.Tensors(index), name, index))
    return tuple(tensors.values())


def _tensor(tensor: Any, name: str, index: int) -> TfliteTensor:
    length = tensor.ShapeSignatureLength()
    sizes = (
        [tensor.ShapeSignature(i) for i in range(length)]
        if length
        else [tensor.Shape(i) for i in range(tensor.ShapeLength())]
    )
    quantized = _scales(tensor) == 1
    return TfliteTensor(
        name,
        _text(tensor.Name()),
        index,
        _DTYPES.get(tensor.Type(), f"type {tensor.Type()}"),
        tuple(None if size < 0 else size for size in sizes),
        float(tensor.Quantization().Scale(0)) if quantized else None,
        int(tensor.Quantization().ZeroPoint(0)) if quantized and tensor.Quantization().ZeroPointLength() else 0,
    )


def _builtin(code: Any) -> int:
    """The number of an operator; older files store numbers below 127 in a one-byte field."""
    return max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode()))


def _all_tensors(model: Any) -> Iterator[Any]:
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index in range(graph.TensorsLength()):
            yield graph.Tensors(index)


def _is_stored(model: Any, tensor: Any) -> bool:
    """Whether the file contains the tensor's values: in the flatbuffer or, in files above 2 GiB, after it."""
    buffer = model.Buffers(tensor.Buffer())
    return bool(buffer.DataLength() or buffer.Size())


def _size(tensor: Any) -> int:
    size = 1
    for axis in range(tensor.ShapeLength()):
        size *= tensor.Shape(axis)
    return size


def _scales(tensor: Any) -> int:
    quantization = tensor.Quantization()
    return quantization.ScaleLength() if quantization is not None else 0


def _text(name: bytes | None) -> str:
    return (name or b"").decode("utf-8", errors="backslashreplace")
