"""Finds the inputs of a LiteRT model that hold ids, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.source.samples import IntegerRange

__all__ = ["ids_of_inputs"]

_OPERATORS = schema.BuiltinOperator
_PASSES = frozenset({
    _OPERATORS.CAST, _OPERATORS.CONCATENATION, _OPERATORS.EXPAND_DIMS, _OPERATORS.RESHAPE, _OPERATORS.SELECT,
    _OPERATORS.SELECT_V2, _OPERATORS.SLICE, _OPERATORS.SQUEEZE, _OPERATORS.STRIDED_SLICE, _OPERATORS.TRANSPOSE,
})  # fmt: skip


def ids_of_inputs(path: Path, inputs: Mapping[str, int]) -> dict[str, IntegerRange]:
    """The ids that inputs hold, by the spec's names.

    Args:
        path: a model that LiteRT has opened: a flatbuffer is only safe to read once it was verified.
        inputs: the spec's name → the tensor's number.
    """
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    return shown_ids(_nodes(model), {str(index): name for name, index in inputs.items()})


def _nodes(model: Any) -> Iterator[Passes | Lookup]:
    graph = model.subgraphs[0]
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        inputs = [] if operator.inputs is None else [int(index) for index in operator.inputs]
        if kind in _PASSES:
            yield Passes([str(index) for index in inputs], [str(int(index)) for index in operator.outputs])
        elif kind == _OPERATORS.GATHER:
            shape = graph.tensors[inputs[0]].shape
            axis = operator.builtinOptions.axis
            if shape is not None and -len(shape) <= axis < len(shape):
                yield Lookup(str(inputs[1]), int(shape[axis]))
        elif kind == _OPERATORS.EMBEDDING_LOOKUP:
            yield Lookup(str(inputs[0]), int(graph.tensors[inputs[1]].shape[0]))
        elif kind == _OPERATORS.ONE_HOT:
            stored = model.buffers[graph.tensors[inputs[1]].buffer].data
            if stored is not None and len(stored) == np.dtype("<i4").itemsize:
                yield Lookup(str(inputs[0]), int(np.asarray(stored, np.uint8).view("<i4")[0]))
