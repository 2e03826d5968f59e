"""Lowers a model's IR version, the version of the file format, to what the runtime reads, if the content allows it.

The IR version says how a file is written; the opset says what its operators compute. Exporters write the newest IR version that
their onnx package knows, also where the file holds nothing new.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx
import onnxruntime

from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.steps.context import StepError

__all__ = ["largest_ir_version", "lower_ir_version", "too_new"]

_ANY_NEWER = 2**31 - 1
_LARGEST = re.compile(r"max supported IR version: (\d+)")


@functools.cache
def largest_ir_version() -> int:
    """The newest IR version that both ONNX Runtime and the installed onnx read.

    ONNX Runtime says it only in the error about a newer one.
    """
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    newer = onnx.helper.make_model(graph, ir_version=_ANY_NEWER, opset_imports=[onnx.helper.make_opsetid("", 13)])
    try:
        onnxruntime.InferenceSession(newer.SerializeToString(), providers=["CPUExecutionProvider"])
    # Its exceptions have no common base class.
    except Exception as error:
        if found := _LARGEST.search(str(error)):
            return min(int(found[1]), int(onnx.IR_VERSION))
        raise
    return int(onnx.IR_VERSION)


def lower_ir_version(model: Any) -> str:
    """Give a ModelProto an IR version that the runtime reads, in place; its opset and operators do not change.

    Returns:
        What was done, as a sentence without its end; empty if nothing had to be.

    Raises:
        StepError: E302, the file holds fields that the installed onnx does not know.
    """
    given, largest = model.ir_version, largest_ir_version()
    if given <= largest:
        return ""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.ByteSize() != model.ByteSize():
        raise too_new(
            given, f"it holds fields that only IR version {given} has, which onnx {onnx.__version__} does not know"
        )
    model.ir_version = largest
    return f"the file is of IR version {given} and is read as {largest}, the newest that ONNX Runtime {onnxruntime.__version__} reads"


def too_new(given: int, cause: str) -> StepError:
    """E302 for a file whose IR version cannot be lowered."""
    largest = largest_ir_version()
    return StepError(
        "E302",
        f"the model's IR version {given} is newer than what ONNX Runtime reads, and cannot be lowered",
        cause=cause,
        remedy=f"write the file again with IR version {largest}: export it with an older onnx, or set `model.ir_version = "
        f"{largest}` before onnx.save; or install a newer onnxruntime than {onnxruntime.__version__}",
        at=AT_WEIGHTS,
    )
