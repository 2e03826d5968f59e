"""Builds models of the operators in `operators.py`, converts them to ONNX, and compares what they answer.

`python run_operators.py RESULTS` writes a JSON object: name → "equal", "both refuse", or what differs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.frameworks.litert.file import TfliteTensor
from orchestrator.frameworks.litert.runtime import open_interpreter
from orchestrator.frameworks.onnx.runtime import open_onnx
from orchestrator.frameworks.source.samples import Array
from orchestrator.frameworks.tensorflow import onnx_export
from orchestrator.frameworks.tensorflow.library import tf
from orchestrator.frameworks.tensorflow.model import TfModel, from_tf, to_tf
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError
from tests.frameworks.tensorflow.operators import ANSWERED, IN_LITERT, REFUSED, REFUSED_INPUTS, Operator

ROWS = (0, 1000)
Outputs = dict[str, Array]


class Built:
    """One model with an output for each tensor of each operator: `y3_0` is the first of operator number 3."""

    def __init__(self, operators: Mapping[str, Operator]) -> None:
        self.names = list(operators)
        self.given = {
            f"x{number}_{position}": array
            for number, operator in enumerate(operators.values())
            for position, array in enumerate(operator.inputs)
        }
        inputs = [Tensor(name, _dtype(array), (f"n_{name}", *array.shape[1:])) for name, array in self.given.items()]

        def call(*tensors: Any) -> dict[str, Any]:
            left, outputs = list(tensors), {}
            for number, operator in enumerate(operators.values()):
                mine, left = left[: len(operator.inputs)], left[len(operator.inputs) :]
                made = operator.build(tf, *mine)
                for position, tensor in enumerate(made if isinstance(made, tuple) else (made,)):
                    outputs[f"y{number}_{position}"] = tf.identity(tensor)
            return outputs

        specs = [tf.TensorSpec((None, *a.shape[1:]), tf.as_dtype(_dtype(a)), name=n) for n, a in self.given.items()]
        self.module = tf.Module()
        self.module.call = tf.function(call, input_signature=specs, autograph=False)
        self.concrete = self.module.call.get_concrete_function()
        outputs = [
            Tensor(name, "string" if t.dtype == tf.string else t.dtype.name, tuple(_size(name, *each) for each in enumerate(t.shape)))
            for name, t in sorted(self.concrete.structured_outputs.items())
        ]  # fmt: skip
        dims = {dim: ROWS for tensor in (*inputs, *outputs) for dim in tensor.shape or () if isinstance(dim, str)}
        self.signature = Signature(tuple(inputs), tuple(outputs), dims, None)

    def answer(self) -> Outputs:
        answer = self.module.call(*[to_tf(array) for array in self.given.values()])
        return {name: from_tf(tensor) for name, tensor in answer.items()}

    def onnx(self, folder: Path) -> Callable[[], Outputs]:
        model = onnx_export.from_function(TfModel(self.signature, self.module.call, self.module), self.signature)
        inputs = {t.name: own.name for t, own in zip(self.signature.inputs, model.graph.input, strict=True)}
        return self._opened(model, inputs, {t.name: t.name for t in self.signature.outputs}, folder)

    def litert(self, folder: Path) -> tuple[Outputs, Callable[[], Outputs]]:
        """The answer of LiteRT, and the ONNX model that is made of its file."""
        converted = tf.lite.TFLiteConverter.from_concrete_functions([self.concrete], self.module).convert()
        path = folder / "model.tflite"
        path.write_bytes(converted)
        interpreter, file = open_interpreter(path, 1)
        for tensor in file.inputs:
            interpreter.resize_tensor_input(tensor.index, self.given[tensor.name].shape)
        interpreter.allocate_tensors()
        for tensor in file.inputs:
            interpreter.set_tensor(tensor.index, self.given[tensor.name])
        interpreter.invoke()
        answer = {tensor.name: interpreter.get_tensor(tensor.index) for tensor in file.outputs}
        model = onnx_export.from_tflite(path, self.signature)
        return answer, self._opened(
            model, _tensors(file.inputs, self.signature.inputs), _tensors(file.outputs, self.signature.outputs), folder
        )

    def _opened(
        self, model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str], folder: Path
    ) -> Callable[[], Outputs]:
        onnx_export.finish(model, inputs, outputs, self.signature, folder / "model.onnx")
        runtime = open_onnx(folder, self.signature, 1)
        return lambda: runtime.run(self.given)


def _tensors(file: tuple[TfliteTensor, ...], declared: tuple[Tensor, ...]) -> dict[str, str]:
    own = {tensor.name: tensor.tensor for tensor in file}
    return {tensor.name: own[tensor.name] for tensor in declared}


def _dtype(array: Array) -> str:
    return "string" if array.dtype.kind == "U" else array.dtype.name


def _size(name: str, axis: int, size: int | None) -> int | str:
    return f"n_{name}_{axis}" if size is None else size


def _difference(expected: Array, actual: Array) -> str:
    """Empty where they are the same, floats up to rounding."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return f"{actual.dtype}{actual.shape} for {expected.dtype}{expected.shape}"
    if expected.dtype.kind == "f":
        same = np.isclose(actual, expected, rtol=1e-5, atol=2e-6, equal_nan=True)
    else:
        same = actual == expected
    return "" if same.all() else f"{actual[~same].tolist()} for {expected[~same].tolist()}"


def _compared(names: list[str], expected: Outputs, actual: Outputs) -> dict[str, str]:
    found = dict.fromkeys(names, "equal")
    for output, array in expected.items():
        name = names[int(output[1:].partition("_")[0])]
        if difference := _difference(array, actual[output]):
            found[name] = f"{output}: {difference}"
    return found


def _raises(call: Callable[[], Any]) -> str:
    try:
        answer = call()
    except Exception:  # noqa: BLE001 - that it refuses is what is asked
        return ""
    return str(answer)


def _refusal(operator: Operator, folder: Path) -> str:
    try:
        Built({"": operator}).onnx(folder)
    except StepError as error:
        return f"{error.code}: {error.cause}"
    return "converts"


def main(results: Path) -> None:
    """Run the whole table."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        built = Built(ANSWERED)
        found |= _compared(built.names, built.answer(), built.onnx(folder)())
        some = Built({name: ANSWERED[name] for name in IN_LITERT})
        expected, converted = some.litert(folder)
        found |= {f"LiteRT: {name}": told for name, told in _compared(some.names, expected, converted()).items()}
        for name, operator in REFUSED_INPUTS.items():
            one = Built({name: operator})
            answers = [_raises(one.answer), _raises(one.onnx(folder))]
            found[name] = "both refuse" if answers == ["", ""] else f"TensorFlow: {answers[0]}, ONNX: {answers[1]}"
        found |= {name: _refusal(operator, folder) for name, (operator, _) in REFUSED.items()}
    results.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
