"""Converts LiteRT models to ONNX or copies them unchanged, quantizes LiteRT models to int8, and checks the results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.variant_facts import OwnNames, variant_facts
from orchestrator.frameworks.litert.runtime import FILE, open_interpreter, open_tflite
from orchestrator.frameworks.litert.source import open_source
from orchestrator.frameworks.source import calibration
from orchestrator.frameworks.source.comparison import Call, check_sizes
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import ConvertParameters, OptimizeParameters

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.litert.file import TfliteTensor
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature, Tensor
    from orchestrator.steps.context import StepContext

__all__ = ["check_written", "to_int8", "to_onnx", "to_tflite"]


def check_written(directory: Path, signature: Signature) -> tuple[str, ...]:
    """Compare `model.tflite` in `directory` with the signature.

    Returns:
        The names of its operators.

    Raises:
        StepError: E424, the file is invalid, or its inputs or outputs are not the declared ones.
    """
    with refuse_on((ValueError, RuntimeError), "E424", "the converter wrote a file that LiteRT does not load"):
        _, file = open_interpreter(directory / FILE, 1)
    _compare_tensors("input", file.inputs, signature.inputs, signature)
    _compare_tensors("output", file.outputs, signature.outputs, signature)
    return tuple(sorted(file.operators))


def _compare_tensors(
    role: str, found: tuple[TfliteTensor, ...], declared: tuple[Tensor, ...], signature: Signature
) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    if set(by_name) != {tensor.name for tensor in declared}:
        cause = f"{sorted(by_name)} instead of {sorted(tensor.name for tensor in declared)}"
        raise StepError("E424", f"the {role}s of the LiteRT file are not the declared ones", cause=cause)
    for tensor in declared:
        own = by_name[tensor.name]
        if own.dtype != tensor.dtype:
            raise StepError(
                "E424", f"the {role} {tensor.name} is {own.dtype} in the LiteRT file, but {tensor.dtype} in the model"
            )
        if role == "output":
            continue  # output sizes are checked by running the model
        for size, dim in zip(own.shape, tensor.shape or (), strict=True):
            if size is not None and isinstance(dim, str) and signature.dims[dim] != (size, size):
                raise StepError(
                    "E424",
                    f"the conversion fixed dimension {dim} of {role} {tensor.name} at {size}",
                    remedy="read sizes from the tensor's shape in the model's code, or "
                    f"declare dimension {dim} as {size}: `dims: {{{dim}: {{min: {size}, max: {size}}}}}`",
                    at=("model", "dims", dim),
                )


_THREADS = 1


def to_tflite(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.tflite`, byte for byte.

    The file keeps its own names, because the user's model is not changed; `VariantFacts.names` maps the spec's names to
    them.

    Raises:
        StepError: as `open_source`; E423 it does not work at every declared size.
    """
    parameters = ConvertParameters.from_json(context.params)
    signature, samples = read_import(context.inputs["import"])
    source, file = open_source(parameters.source, context.inputs, signature, _THREADS)
    shutil.copyfile(context.inputs["weights"], context.output / FILE)
    given = parameters.source.names
    names = OwnNames(inputs=given.inputs, outputs=given.outputs)
    operators = tuple(sorted(file.operators))
    facts = variant_facts(format="tflite", exporter="given", names=names, operators=operators)
    facts.write(context.output)  # the runtime reads the names from it
    context.progress("checking the copy", 0.5)
    copy = open_tflite(context.output, signature, _THREADS)
    facts = facts.model_copy(update={"checked": tuple(check_sizes(signature, samples, source.run, copy.run))})
    facts.write(context.output)
    return facts.summary()


def to_onnx(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.onnx` with the signature's names and dynamic axes.

    Raises:
        StepError: as `open_source`; E422 it does not convert, E423 it differs from its source, E424 the file's inputs or
            outputs are not the declared ones.
    """
    # tf2onnx needs TensorFlow, which takes seconds to load; the other conversion does not need it.
    from orchestrator.frameworks.tensorflow import onnx_export

    parameters = ConvertParameters.from_json(context.params)
    context.progress("loading the model", 0.0)
    signature, samples = read_import(context.inputs["import"])
    source, file = open_source(parameters.source, context.inputs, signature, _THREADS)
    context.progress("converting to ONNX", 0.2)
    model = onnx_export.from_tflite(context.inputs["weights"], signature)
    names = parameters.source.names
    size = onnx_export.finish(
        model,
        _own_tensors(file.inputs, names.inputs, [t.name for t in signature.inputs]),
        _own_tensors(file.outputs, names.outputs, [t.name for t in signature.outputs]),
        signature,
        context.output / "model.onnx",
    )
    context.progress("checking the ONNX file", 0.6)
    converted = open_runtime("onnx", context.output, signature, _THREADS)
    meanings = {
        name: tensor
        for name, own in _own(names.outputs, [t.name for t in signature.outputs]).items()
        for tensor in file.outputs
        if tensor.name == own
    }
    checked = check_sizes(signature, samples, _dequantized(source.run, meanings), _dequantized(converted.run, meanings))
    facts = variant_facts(format="onnx", exporter="tf2onnx", checked=tuple(checked), **size)
    facts.write(context.output)
    return facts.summary()


def _own(names: Mapping[str, str], wanted: list[str]) -> dict[str, str]:
    return {name: names.get(name, name) for name in wanted}


def _own_tensors(tensors: tuple[TfliteTensor, ...], names: Mapping[str, str], wanted: list[str]) -> dict[str, str]:
    """Name in the spec → the tensor's name in the file, which tf2onnx keeps."""
    by_name = {tensor.name: tensor.tensor for tensor in tensors}
    return {name: by_name[own] for name, own in _own(names, wanted).items()}


def _dequantized(call: Call, outputs: Mapping[str, TfliteTensor]) -> Call:
    """Dequantized outputs, so that two runtimes that round halves differently still agree."""

    def meant(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: _value(array, outputs[name]) for name, array in call(inputs).items()}

    return meant


def _value(array: Array, tensor: TfliteTensor) -> Array:
    if tensor.scale is None:
        return array
    return np.float32(tensor.scale) * (array.astype(np.float32) - tensor.zero_point)


_CONVOLUTIONS = {"Conv1D", "Conv2D", "Conv3D", "Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNative"}


def to_int8(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.tflite` in int8, calibrated on the samples of `import`.

    The rule is the same as for ONNX (`frameworks/onnx/quantize.py`): samples show the ranges of a convolutional model's
    activations, while those of transformers and recurrent models vary too much from call to call. With dynamic ranges, the
    weights are int8 and LiteRT quantizes the activations in every call. Inputs and outputs stay float, so that the variant
    is called like all others; operators without an int8 kernel stay float too.

    Calibration uses at most every second row, so that `verify` also compares rows that did not set the ranges.

    Params: as `orchestrator.frameworks.tensorflow.convert:to_tflite`; `seed` selects rows if there are more than
        `calibration.LARGEST`.

    Raises:
        StepError: as that step; E425, the model cannot be quantized or has nothing to quantize.
    """
    parameters = OptimizeParameters.from_json(context.params)
    if parameters.source.kind == "tflite":
        raise StepError(
            "E425",
            "a LiteRT model cannot be quantized",
            cause="TensorFlow's converter quantizes a model while it converts it, and cannot read a converted one",
            remedy="quantize it during its conversion, or give the model that it was converted from: `kind: keras` or `kind: saved-model`",
        )
    # TensorFlow is only loaded now, because refusing a LiteRT model does not need it.
    from orchestrator.frameworks.tensorflow import convert as tf_convert
    from orchestrator.frameworks.tensorflow.library import tf

    context.progress("loading the model", 0.0)
    job = tf_convert.prepare(context, parameters.source)

    converter, traced = tf_convert.litert_converter(job)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    chosen = None
    if traced.operators() & _CONVOLUTIONS:
        chosen = calibration.choose(context.inputs["import"], parameters.seed)
        converter.representative_dataset = chosen.calls
    context.progress("quantizing", 0.3)
    operators = tf_convert.write_litert(context, job, converter)
    _, file = open_interpreter(context.output / FILE, 1)
    if not file.quantized:
        raise StepError(
            "E425",
            "the model has nothing to quantize",
            cause="no convolution or matrix product in it is large enough for LiteRT to store its weights in int8",
        )
    facts = variant_facts(
        format="tflite",
        precision="int8",
        exporter="tf.lite",
        operators=operators,
        method="dynamic" if chosen is None else "static",
        calibration=None if chosen is None else chosen.facts(),
        notes=() if chosen is None else chosen.notes,
    )
    facts.write(context.output)
    return facts.summary()
