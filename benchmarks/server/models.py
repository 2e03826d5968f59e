"""Builds models with random weights, and the folders from which servers are started."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["mlp", "resnet50", "write_folder"]


class _Graph:
    """Nodes and weights of a network, built from input to output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(0)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = self._random.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        self.weights.append(numpy_helper.from_array(values if len(shape) > 1 else np.zeros(shape, np.float32), name))
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.node("Gemm", x, self.weight(outputs, inputs), self.weight(outputs), transB=1)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution with its batch normalization folded in, as after optimization."""
        weight, bias, pad = self.weight(outputs, inputs, kernel, kernel), self.weight(outputs), kernel // 2
        return self.node("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def save(self, path: Path, last: str, inputs: list[int], outputs: list[int]) -> None:
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *inputs])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *outputs])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, path)


def mlp(path: Path, sizes: tuple[int, ...]) -> None:
    """Dense layers with ReLU between them: [batch, sizes[0]] → [batch, sizes[-1]]."""
    graph, x = _Graph(), "x"
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        x = graph.dense(graph.node("Relu", x) if number else x, inputs, outputs)
    graph.save(path, x, [sizes[0]], [sizes[-1]])


def resnet50(path: Path) -> None:
    """The network of He et al. 2015 (arXiv:1512.03385, table 1): [batch, 3, 224, 224] → [batch, 1000]."""
    graph = _Graph()
    x = graph.node("Relu", graph.conv("x", 3, 64, 7, 2))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = graph.node("Relu", graph.conv(x, channels, inner, 1))
            y = graph.node("Relu", graph.conv(y, inner, inner, 3, stride))
            y = graph.conv(y, inner, inner * 4, 1)
            if block == 0:
                x = graph.conv(x, channels, inner * 4, 1, stride)
            x, channels = graph.node("Relu", graph.node("Add", x, y)), inner * 4
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    graph.save(path, graph.dense(x, 2048, 1000), [3, 224, 224], [1000])


def write_folder(folder: Path, inputs: list[int], outputs: list[int], **settings: Any) -> None:
    """The server.json beside `model.onnx`: [batch, *inputs] → [batch, *outputs], float32."""

    def tensor(name: str, shape: list[int]) -> dict[str, Any]:
        return {"name": name, "dtype": "float32", "shape": ["batch", *shape]}

    digest = "0" * 64
    document: dict[str, Any] = {
        "format": 2,
        "model": {
            "name": "m",
            "version": "1",
            "file": "model.onnx",
            "sha256": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest(),
            "signature": {
                "inputs": [tensor("x", inputs)],
                "outputs": [tensor("y", outputs)],
                "dims": {"batch": [1, 64]},
                "batch": "batch",
            },
            "labels": {
                "variant": "onnx-fp32",
                "model_digest": digest,
                "decision_digest": digest,
            },
        },
        "instances": 1,
        "provider": "CPUExecutionProvider",
        "max_delay_us": 0,
        "queue_rows": 1024,
        "request_timeout_s": 30,
        "max_body_bytes": 64 << 20,
        "drain_seconds": 0,
        "host": "127.0.0.1",
        "port": 0,
        "log_level": "info",
    }
    (folder / "server.json").write_text(json.dumps(document | settings))
