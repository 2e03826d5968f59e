"""Moves outliers of activations into the weights they are multiplied with, before quantization with dynamic ranges.

A dynamic range covers a whole tensor. If one channel is twenty times as large as the others, as in the hidden states of
most transformers, only three or four of eight bits are left for the others. So each channel is divided by a factor, and the
corresponding row of the weights is multiplied by it, which leaves the product unchanged. The factors are those of
SmoothQuant (Xiao et al., ICML 2023, equation 4).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from orchestrator.frameworks.onnx.graph import nodes
from orchestrator.frameworks.onnx.runtime import session_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestrator.frameworks.source.samples import Array

__all__ = ["smooth"]

OUTLIER = 4.0
"""The minimum ratio of the largest channel to the median one; below it, the additional multiplication does not pay off."""

_AXES_ARE_INPUTS = 18  # the first opset in which ReduceMax takes axes as an input


def smooth(path: Path, scratch: Path, calls: Iterable[Mapping[str, Array]], *, strength: float, large: bool) -> int:
    """Smooth the model at `path` in place.

    Args:
        path: a model in float32.
        scratch: a folder for a copy that measures the channels.
        calls: the inputs to measure them with.
        strength: how much of the outliers is moved: 1 moves them to the weights entirely; 0 leaves the whole model as it is.
        large: whether the weights are in a separate file.

    Returns:
        The number of activations with outliers; these are smoothed.
    """
    model = onnx.load(str(path))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = _products(model, weights)
    if not products:
        return 0
    magnitudes = _magnitudes(model, products, weights, scratch, calls, large=large)
    outliers = [name for name in products if magnitudes[name].max() > OUTLIER * np.median(magnitudes[name])]
    if not outliers or not strength:
        return len(outliers)
    before: dict[int, Any] = {}
    for activation in outliers:
        users = products[activation]
        factors = _factors(magnitudes[activation], [_by_channel(node, weights) for node in users], strength)
        smoothed, divisor = f"{activation}_smoothed", f"{activation}_divisor"
        for node in users:
            _scale(node, weights, factors)
            node.input[0] = smoothed
        model.graph.initializer.append(numpy_helper.from_array(1 / factors, divisor))
        first = min(index for index, node in enumerate(model.graph.node) if smoothed in node.input)
        before[first] = helper.make_node("Mul", [activation, divisor], [smoothed], f"{activation}_smooth")
    ordered = [each for index, node in enumerate(model.graph.node) for each in (before.get(index), node) if each]
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # an existing file would be appended to
    onnx.save(model, str(path), save_as_external_data=large, location=f"{path.name}.data")
    return len(before)


def _products(model: Any, weights: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Activation → its matrix products with constant weights in the main graph."""
    used = Counter(name for node in nodes(model) for name in node.input)
    found: dict[str, list[Any]] = defaultdict(list)
    for node in model.graph.node:
        if node.op_type not in {"MatMul", "Gemm"} or _flag(node, "transA"):
            continue
        activation, weight = node.input[0], weights.get(node.input[1])
        if weight is None or used[weight.name] > 1 or activation in weights:
            continue
        if len(weight.dims) == 2 and weight.data_type == onnx.TensorProto.FLOAT:
            found[activation].append(node)
    return dict(found)


def _flag(node: Any, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _magnitudes(
    model: Any,
    products: Mapping[str, list[Any]],
    weights: Mapping[str, Any],
    scratch: Path,
    calls: Iterable[Mapping[str, Array]],
    *,
    large: bool,
) -> dict[str, Array]:
    """The maximum absolute value of every channel of every activation, computed in the graph because activations are large."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    graph = watched.graph
    del graph.output[:]
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    first = numpy_helper.from_array(np.array([0], np.int64), "mlo_first_axis")
    axes, names = ({}, [first.name]) if opset >= _AXES_ARE_INPUTS else ({"axes": [0]}, [])
    graph.initializer.append(first)
    outputs = {}
    for number, (activation, found) in enumerate(products.items()):
        channels = len(_by_channel(found[0], weights))
        rows, flat, positive, largest = (f"mlo_{what}_{number}" for what in ("rows", "flat", "positive", "largest"))
        graph.initializer.append(numpy_helper.from_array(np.array([-1, channels], np.int64), rows))
        graph.node.extend(
            [
                helper.make_node("Reshape", [activation, rows], [flat]),
                helper.make_node("Abs", [flat], [positive]),
                helper.make_node("ReduceMax", [positive, *names], [largest], keepdims=0, **axes),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT, [channels]))
        outputs[largest] = activation
    path = scratch / "watched.onnx"
    onnx.save(watched, str(path), save_as_external_data=large, location=f"{path.name}.data")
    session = onnxruntime.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
    seen = {name: np.zeros(1, np.float32) for name in products}
    for inputs in calls:
        for output, array in zip(outputs, session.run(list(outputs), dict(inputs)), strict=True):
            seen[outputs[output]] = np.maximum(seen[outputs[output]], array)
    return seen


def _rows_first(node: Any, weights: Mapping[str, Any]) -> Array:
    """The weights with one row for each channel of the activation, as a view if possible."""
    array: Array = numpy_helper.to_array(weights[node.input[1]])
    return array.T if _flag(node, "transB") else array


def _by_channel(node: Any, weights: Mapping[str, Any]) -> Array:
    magnitudes: Array = np.abs(_rows_first(node, weights)).max(axis=1)
    return magnitudes


def _factors(channels: Array, rows: list[Array], strength: float) -> Array:
    """The divisor of each channel; 1 if its activations or its weights are all zero."""
    weights = np.max(rows, axis=0)
    used = (channels > 0) & (weights > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = channels**strength / weights ** (1 - strength)
    return np.where(used, exact, 1.0).astype(np.float32)


def _scale(node: Any, weights: Mapping[str, Any], factors: Array) -> None:
    tensor = weights[node.input[1]]
    scaled = _rows_first(node, weights) * factors[:, None]
    array = np.ascontiguousarray(scaled.T if _flag(node, "transB") else scaled)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
