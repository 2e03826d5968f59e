"""Converts a LiteRT model: to ONNX, and to what it is already, a file that devices read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.litert.runtime import FILE, open_tflite
from orchestrator.frameworks.litert.source import open_source
from orchestrator.frameworks.source.imported import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.frameworks.source.size_check import Call, check_sizes
from orchestrator.frameworks.source.variant_facts import write_facts

if TYPE_CHECKING:
    from orchestrator.frameworks.litert.file import TfliteTensor
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.steps import StepContext

__all__ = ["to_onnx", "to_tflite"]

_THREADS = 1


def to_tflite(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.tflite`, byte for byte.

    The file keeps its own names, since it is somebody's model as they made it; where the spec has others, `facts.json` says
    which is which: `{"names": {"inputs": {name in the spec: name in the file}, "outputs": {...}}}`.

    Raises:
        StepError: as `open_source`; E423 it does not work at every declared size.
    """
    signature, samples = read_import(context.inputs["import"])
    source, file = open_source(context.params, context.inputs, signature, _THREADS)
    shutil.copyfile(context.inputs["weights"], context.output / FILE)
    facts = {
        "format": "tflite",
        "exporter": "given",
        "names": context.params["source"].get("names", {}),
        "operators": sorted(file.operators),
    }
    write_facts(context, facts)  # the runtime reads the names there
    context.progress("checking the copy", 0.5)
    copy = open_tflite(context.output, signature, _THREADS)
    return write_facts(context, {**facts, "checked": check_sizes(signature, samples, source.run, copy.run)})


def to_onnx(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.onnx` with the signature's names and dynamic axes.

    Raises:
        StepError: as `open_source`; E422 it does not convert, E423 it differs from its source, E424 the file is not what was
            declared.
    """
    # TensorFlow, which tf2onnx needs, takes seconds to load, and the other conversion does without it.
    from orchestrator.frameworks.tensorflow import onnx_from_tf

    context.progress("loading the model", 0.0)
    signature, samples = read_import(context.inputs["import"])
    source, file = open_source(context.params, context.inputs, signature, _THREADS)
    context.progress("converting to ONNX", 0.2)
    model = onnx_from_tf.from_tflite(context.inputs["weights"], signature)
    names = context.params["source"].get("names", {})
    facts = onnx_from_tf.finish(
        model,
        _tensors(file.inputs, names.get("inputs", {}), [t.name for t in signature.inputs]),
        _tensors(file.outputs, names.get("outputs", {}), [t.name for t in signature.outputs]),
        signature,
        context.output / "model.onnx",
    )
    context.progress("checking the ONNX file", 0.6)
    converted = open_runtime("onnx", context.output, signature, _THREADS)
    meanings = {
        name: tensor
        for name, own in _own(names.get("outputs", {}), [t.name for t in signature.outputs]).items()
        for tensor in file.outputs
        if tensor.name == own
    }
    checked = check_sizes(signature, samples, _meant(source.run, meanings), _meant(converted.run, meanings))
    return write_facts(context, {**facts, "format": "onnx", "exporter": "tf2onnx", "checked": checked})


def _own(names: Mapping[str, str], wanted: list[str]) -> dict[str, str]:
    return {name: names.get(name, name) for name in wanted}


def _tensors(tensors: tuple[TfliteTensor, ...], names: Mapping[str, str], wanted: list[str]) -> dict[str, str]:
    """Name in the spec → the name of the tensor itself, which tf2onnx takes over."""
    by_name = {tensor.name: tensor.tensor for tensor in tensors}
    return {name: by_name[own] for name, own in _own(names, wanted).items()}


def _meant(call: Call, outputs: Mapping[str, TfliteTensor]) -> Call:
    """Quantized outputs as the numbers that they stand for: a step of one, where two runtimes round a half otherwise, is no error."""

    def meant(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _value(array, outputs[name]) for name, array in call(inputs).items()}

    return meant


def _value(array: Array, tensor: TfliteTensor) -> Array:
    if tensor.scale is None:
        return array
    return np.float32(tensor.scale) * (array.astype(np.float32) - tensor.zero_point)
