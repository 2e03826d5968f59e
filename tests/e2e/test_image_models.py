"""Image classifiers of a usual size with random weights: what is measured of them, and that it fits together."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: {kind}, weights: {weights}}}
  dims: {{batch: {{min: 1, max: 2}}}}
  samples: {name}.npz
optimize: {{formats: [onnx], precisions: [fp32], time_budget: 2m}}
benchmark: {{batch_sizes: [1]}}
hardware: {{cpus: 2, memory: 4Gi}}
serving: {{backend: onnxruntime}}
"""

_MOBILENET = """
import sys, keras
keras.utils.set_random_seed(0)
image = keras.Input((224, 224, 3), name="image")
net = keras.applications.MobileNetV2(input_tensor=image, weights=None, classifier_activation=None)
keras.Model(image, {"scores": net.output}).save(sys.argv[1])
"""


class _ResNet50:
    """The graph of ResNet-50 (He et al. 2015) for inference, with its normalisations folded into the convolutions."""

    def __init__(self) -> None:
        self._draw = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        x = self._relu(self._conv("image", 3, 64, size=7, stride=2))
        x = self._node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for block in range(blocks):
                x = self._bottleneck(x, channels, width, stride if block == 0 else 1)
                channels = 4 * width
        x = self._node("Flatten", self._node("GlobalAveragePool", x))
        fully = [self._weight(channels, 1000, scale=0.01), self._weight(1000, scale=0.01)]
        self._nodes.append(helper.make_node("Gemm", [x, *fully], ["scores"]))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1000])
        graph = helper.make_graph(self._nodes, "resnet50", [image], [scores], self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _bottleneck(self, x: str, channels: int, width: int, stride: int) -> str:
        inner = self._relu(self._conv(x, channels, width, size=1))
        inner = self._relu(self._conv(inner, width, width, size=3, stride=stride))
        inner = self._conv(inner, width, 4 * width, size=1, scale=0.2)  # so that 16 sums of blocks stay small
        same = channels == 4 * width and stride == 1
        return self._relu(self._node("Add", inner, x if same else self._conv(x, channels, 4 * width, 1, stride)))

    def _conv(self, x: str, channels: int, filters: int, size: int, stride: int = 1, scale: float = 1.0) -> str:
        weight = self._weight(filters, channels, size, size, scale=scale * (2 / (channels * size**2)) ** 0.5)
        bias = self._weight(filters, scale=0.01)
        pads = [size // 2] * 4
        return self._node("Conv", x, weight, bias, kernel_shape=[size, size], strides=[stride] * 2, pads=pads)

    def _relu(self, x: str) -> str:
        return self._node("Relu", x)

    def _weight(self, *shape: int, scale: float) -> str:
        array = (self._draw.standard_normal(shape) * scale).astype(np.float32)
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"h{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name


@pytest.fixture(scope="module")
def resnet(mlo: Mlo) -> tuple[dict[str, Any], str]:
    onnx.save(_ResNet50().model(), mlo.folder / "resnet.onnx")
    return _applied(mlo, "resnet", "onnx", "resnet.onnx", (3, 224, 224))


@pytest.fixture(scope="module")
def mobilenet(mlo: Mlo) -> tuple[dict[str, Any], str]:
    file = mlo.folder / "mobilenet.keras"
    command = [sys.executable, "-W", "ignore", "-c", _MOBILENET, str(file)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return _applied(mlo, "mobilenet", "keras", file.name, (224, 224, 3))


def _applied(mlo: Mlo, name: str, kind: str, weights: str, shape: tuple[int, ...]) -> tuple[dict[str, Any], str]:
    """What was measured of the server, and the decision as text."""
    images = np.random.default_rng(1).random((4, *shape), dtype=np.float32)
    np.savez(mlo.folder / f"{name}.npz", allow_pickle=False, image=images)
    spec: Path = mlo.folder / f"{name}.yaml"
    spec.write_text(_SPEC.format(name=name, kind=kind, weights=weights), encoding="utf-8")
    text = mlo.run("apply", str(spec), "--yes", timeout=560).stdout
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]  # all of it is cached
    (candidate,) = (c for c in deployment["decision"]["candidates"] if c["fate"] == "won")
    assert candidate["candidate"] == "onnx-fp32"
    return {**candidate["server"], "runtime": candidate["runtime"]}, text


@pytest.fixture(params=["resnet", "mobilenet"])
def applied(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]  # a fixture of this file


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.alone
def test_a_large_model_has_a_rate_and_a_throughput_that_fit_its_latency(applied: tuple[dict[str, Any], str]) -> None:
    server, text = applied
    loop, full = server["open_loop"], server["saturation"]
    assert "reason" not in loop, loop
    assert "reason" not in full, full
    assert loop["rate"] > 0
    assert loop["samples"] >= 5
    assert full["at_least"] > 0
    # Its rate was half of what it reached, so that it was loaded and not flooded.
    assert loop["rate"] < full["at_least"]
    # By Little's law, what is under way is the throughput times the latency.
    assert full["at_least"] * full["mean"] == pytest.approx(full["connections"], rel=0.5)
    # With one row under way at a time, it would reach 1 / p50; two CPUs and batches change that by a small factor.
    assert 0.2 < full["at_least"] * server["runtime"]["batches"][0]["p50"] < 5
    assert all(np.isfinite(number) for number in _numbers(server))
    assert not re.search(r"(?<![\d.,])0(\.0+)? rows/s|\binf\b|\bnan\b", text), text
    assert "not measured" not in text


@pytest.mark.alone
def test_of_a_large_request_the_wire_and_the_model_are_told_apart(applied: tuple[dict[str, Any], str]) -> None:
    server, _ = applied
    wires = {each["wire"]: each for each in server["wires"]}
    assert not [each["refused"] for each in wires.values() if each["refused"]]
    pixels = 3 * 224 * 224
    assert pixels * 4 < wires["binary"]["request_bytes"] < pixels * 4 + 1000
    assert wires["json"]["request_bytes"] > pixels * 12
    assert wires["binary"]["call"] < wires["json"]["call"]
    # Where the model takes so long that JSON adds less than a tenth to a call, it stays with the wire that every client has.
    assert server["wire"] == ("json" if wires["json"]["call"] <= 1.1 * wires["binary"]["call"] else "binary")
    model = wires["binary"]["model"]
    assert model == server["runtime"]["batches"][0]["p50"]
    # They were measured one after the other, so that they agree as far as the machine was the same.
    assert 0.3 * model < wires["binary"]["call"] < 5 * model
    # The chosen one is loaded in the rounds, any other for a moment after them.
    assert {wire for wire, each in wires.items() if each["rows_per_second"] is None} == {server["wire"]}


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_an_image_is_classified(mlo: Mlo, name: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(name)
    answer = mlo.json("predict", name, "--input", f"{name}.npz", "--json")
    (scores,) = answer["outputs"].values()
    assert np.shape(scores) == (4, 1000)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0
