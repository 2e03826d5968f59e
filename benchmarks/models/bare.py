"""Runs a model in its own framework, in a process of its own: `bare.py KIND MODEL NAMES.json INPUTS.npz OUTPUTS.npz`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Inputs = Mapping[str, np.ndarray[Any, Any]]
"""By the model's own names."""


def onnx(model: Path, inputs: Inputs, outputs: Sequence[str]) -> list[Any]:
    """ONNX Runtime, with its defaults; only these outputs, since others may be no tensors."""
    import onnxruntime  # noqa: PLC0415 - each framework in a process without the others

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), dict(inputs)))


def tflite(model: Path, inputs: Inputs, outputs: Sequence[str]) -> list[Any]:
    """LiteRT's interpreter, by position: names of a signature are not those of its tensors."""
    del outputs  # by position too
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - each framework in a process without the others

    interpreter = Interpreter(str(model))
    details = interpreter.get_input_details()
    for detail, array in zip(details, inputs.values(), strict=True):
        interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()
    for detail, array in zip(details, inputs.values(), strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def keras(model: Path, inputs: Inputs, outputs: Sequence[str]) -> list[Any]:
    """Keras, in inference mode."""
    import tensorflow as tf  # noqa: PLC0415 - each framework in a process without the others

    del outputs  # all, in the model's order
    given = [tf.constant(array) for array in inputs.values()]
    loaded = tf.keras.models.load_model(str(model), compile=False)
    return [
        output.numpy() for output in tf.nest.flatten(loaded(given[0] if len(given) == 1 else given, training=False))
    ]


def saved_model(model: Path, inputs: Inputs, outputs: Sequence[str]) -> list[Any]:
    """TensorFlow's loader of version 1, which needs no object graph."""
    import tensorflow as tf  # noqa: PLC0415 - each framework in a process without the others

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(model))
        signature = loaded.signature_def["serving_default"]
        fetched = [signature.outputs[name].name for name in outputs]
        return list(session.run(fetched, {signature.inputs[name].name: array for name, array in inputs.items()}))


RUN: dict[str, Callable[[Path, Inputs, Sequence[str]], list[Any]]] = {
    "onnx": onnx, "tflite": tflite, "keras": keras, "saved-model": saved_model,
}  # fmt: skip


def main() -> None:
    """See the module."""
    kind, model, names, inputs, outputs = sys.argv[1:]
    own = json.loads(Path(names).read_text(encoding="utf-8"))
    with np.load(inputs) as file:
        given = {tensor: file[name] for name, tensor in own["inputs"].items()}
    np.savez(outputs, *RUN[kind](Path(model), given, list(own["outputs"].values())))


if __name__ == "__main__":
    main()
