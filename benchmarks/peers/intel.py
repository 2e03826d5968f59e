"""OpenVINO: fp32, and int8 by NNCF; each made as its manual says, and compiled for latency with two threads.

Sources: OpenVINO's manual, "Convert a PyTorch model" and "Optimizing for Latency"; NNCF's "Basic Quantization Flow", which asks for
`model_type` with transformers.
"""

from __future__ import annotations

from pathlib import Path

import openvino
from by_hand import THREADS, Call
from networks import Array, Inputs, Network

FILE = "model.xml"


def _converted(network: Network) -> openvino.Model:
    fixed = [1, 3, 224, 224] if network.name == "resnet50" else None
    shapes = [fixed if fixed is not None else [1, -1] for _ in network.inputs]
    found = openvino.convert_model(network.module(), example_input=network.example(), input=shapes)
    for port, name in zip(found.inputs, network.inputs, strict=True):
        port.get_tensor().set_names({name})
    return found


def make_fp32(network: Network, folder: Path) -> None:
    """Convert the network."""
    openvino.save_model(_converted(network), folder / FILE)


def make_int8(network: Network, folder: Path) -> None:
    """Convert it, then quantize it with NNCF."""
    import nncf  # noqa: PLC0415 - takes seconds

    transformer = nncf.ModelType.TRANSFORMER if network.name == "minilm" else None
    dataset = nncf.Dataset(network.calibration())
    openvino.save_model(nncf.quantize(_converted(network), dataset, model_type=transformer), folder / FILE)


def open_compiled(network: Network, folder: Path) -> Call:
    """The model, compiled for latency."""
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.Core().compile_model(folder / FILE, "CPU", settings)
    request, output = compiled.create_infer_request(), compiled.output(0)
    known = {name for port in compiled.inputs for name in port.names}
    used = [name for name in network.inputs if name in known]

    def call(inputs: Inputs) -> Array:
        answer: Array = request.infer({name: inputs[name] for name in used}, share_inputs=True)[output]
        return answer

    return call
