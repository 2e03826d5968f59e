"""Stores the weights of matrix products in blocks of a few bits; the arithmetic stays in floating point."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["store_weights"]


def store_weights(source: Path, target: Path, *, bits: int, block: int = 32, integers: bool = False) -> None:
    """Write the model with the constant weights of its matrix products as `MatMulNBits` of ONNX Runtime.

    Args:
        source: the model in floating point.
        target: where to write it; weights that do not fit into a file go into `model.onnx.data` beside it.
        bits: of a weight, 4 or 8.
        block: weights of one input channel that share a scale and a zero point.
        integers: whether the kernels may round activations to 8 bits, which is faster and less exact.

    Raises:
        StepError: E425, no matrix product has constant weights.
    """
    config = DefaultWeightOnlyQuantConfig(
        block_size=block, is_symmetric=False, bits=bits, accuracy_level=4 if integers else 1
    )
    given = onnx.load(str(source))
    _products(given.graph)
    quantizer = MatMulNBitsQuantizer(given, algo_config=config)
    quantizer.process()
    model = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise StepError(
            "E425", "the model has nothing to quantize", cause="no matrix product in it has constant weights of its own"
        )
    size = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    large = size > onnx_finish.LARGEST_ONNX_FILE
    onnx.save(model, str(target), save_as_external_data=large, location=f"{target.name}.data")


def _products(graph: Any) -> None:
    """Make a product and an addition of every `Gemm` whose weights are constant, since only products are stored in blocks."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    used = Counter(name for node in graph.node for name in node.input)
    made: list[Any] = []
    for node in graph.node:
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = node.op_type == "Gemm" and values.get("alpha", 1.0) == values.get("beta", 1.0) == 1.0
        weight = weights.get(node.input[1]) if plain and not values.get("transA", 0) else None
        if weight is None or (values.get("transB", 0) and used[weight.name] > 1):
            made.append(node)
            continue
        if values.get("transB", 0):
            turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
        bias = len(node.input) > 2
        product = f"{node.output[0]}_product" if bias else node.output[0]
        made.append(helper.make_node("MatMul", list(node.input[:2]), [product], f"{node.name}_product"))
        if bias:
            made.append(helper.make_node("Add", [product, node.input[2]], list(node.output), f"{node.name}_bias"))
    copies = [type(node).FromString(node.SerializeToString()) for node in made]
    del graph.node[:]
    graph.node.extend(copies)
