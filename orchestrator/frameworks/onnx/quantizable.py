"""Whether an ONNX model, whoever made it, can be quantized; and the same model with operators that the quantizer knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import version_converter

from orchestrator.frameworks.onnx.walk import nodes
from orchestrator.frameworks.pytorch.export_failure import headline
from orchestrator.frameworks.source.imported import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.frameworks.source.size_check import check_sizes
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["QUANTIZED", "holds_halves", "quantizable"]

OPSET = 13
"""The first version whose QuantizeLinear has a scale for each channel."""

QUANTIZED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
        *(
            "QLinearConv",
            "QLinearMatMul",
            "QLinearAdd",
            "QLinearSoftmax",
            "QGemm",
            "QAttention",
            "QEmbedLayerNormalization",
        ),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"),
        *("GatherBlockQuantized", "QMoE"),
    }
)
"""Operators of quantized models, the standard's and ONNX Runtime's own."""


def quantizable(directory: Path, imported: Path, scratch: Path) -> Path:
    """The file to quantize: the variant's own, or one of a later opset.

    Args:
        directory: the variant, which holds `model.onnx`.
        imported: what the import step left.
        scratch: where another file may be written.

    Raises:
        StepError: E425, it is quantized already, or of an opset that cannot be raised.
    """
    path = directory / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    if used := sorted({node.op_type for node in nodes(model)} & QUANTIZED):
        raise StepError(
            "E425",
            "the model is quantized already",
            cause=f"it uses {', '.join(used)}",
            remedy="leave int8 out of `optimize.precisions`, or give the model before it was quantized",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=OPSET)
    return path if opset >= OPSET else _raised(directory, imported, scratch, opset)


def holds_halves(path: Path) -> bool:
    """Whether weights of the model are float16, which the quantizer passes over."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 and len(tensor.dims) > 1 for tensor in graph.initializer)


def _raised(directory: Path, imported: Path, scratch: Path, opset: int) -> Path:
    """The model with operators of the version that is needed, which answers as before."""
    raised = scratch / "raised"
    raised.mkdir()
    try:
        converted: Any = version_converter.convert_version(onnx.load(str(directory / "model.onnx")), OPSET)
        onnx.save(converted, str(raised / "model.onnx"))
        signature, samples = read_import(imported)
        before, after = (open_runtime("onnx", folder, signature, threads=1) for folder in (directory, raised))
        check_sizes(signature, samples, before.run, after.run)
    # The converter raises whatever its adapters raise, and what it makes may not load, or be another model.
    except Exception as error:
        cause = error.cause or error.message if isinstance(error, StepError) else headline(error)
        raise StepError(
            "E425",
            f"the model's opset {opset} is too old for int8",
            cause=f"a scale for each channel needs opset {OPSET}, and raising it fails: {cause}",
            remedy=f"export the model with opset {OPSET} or later",
        ) from error
    return raised / "model.onnx"
