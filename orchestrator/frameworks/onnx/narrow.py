"""Makes variants of ONNX models with narrower weights: fp16 throughout, and int4 in the weights of matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from orchestrator.artifacts.variant_facts import VariantFacts, variant_facts
from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.quantize import has_float16_weights, quantizable
from orchestrator.frameworks.onnx.rewrite import quiet
from orchestrator.frameworks.onnx.weights import store_weights
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import OptimizeParameters
from orchestrator.steps.pass_options import OnnxInt4Options

if TYPE_CHECKING:
    from orchestrator.frameworks.onnx.finish import OnnxSize
    from orchestrator.spec.gates import Precision
    from orchestrator.steps.context import StepContext

__all__ = ["to_fp16", "to_int4"]

_FILE = "model.onnx"
_DATA = "model.onnx.data"


def to_fp16(context: StepContext) -> dict[str, Any]:
    """Step: the variant in float16, with its inputs and outputs as they are.

    Operators without float16 kernels stay in float32, between conversions; whether the result is faster is measured.

    Raises:
        StepError: E425, the model cannot be converted, or holds no float32 weights.
    """
    context.progress("converting to float16", 0.1)
    source = context.inputs["model"] / _FILE
    model = onnx.load(str(source))
    large = (context.inputs["model"] / _DATA).is_file()
    # The library raises whatever shape inference raises.
    with refuse_on(Exception, "E425", "the model cannot be converted to float16"), quiet():
        narrow = convert_float_to_float16(model, keep_io_types=True)
        onnx.save(narrow, str(context.output / _FILE), save_as_external_data=large, location=_DATA)
    if has_float16_weights(source) or not has_float16_weights(context.output / _FILE):
        raise StepError("E425", "the model has nothing to narrow", cause="it has no weights in float32")
    return _described(context, "fp16")


def to_int4(context: StepContext) -> dict[str, Any]:
    """Step: the variant with the weights of its matrix products in blocks of 4 bits.

    Raises:
        StepError: E425, the model is quantized already, no matrix product has constant weights, or they cannot be stored so.
    """
    options = OptimizeParameters.from_json(context.params).options or OnnxInt4Options()
    if not isinstance(options, OnnxInt4Options):
        raise TypeError(f"int4 takes its own options, not {type(options).__name__}")
    context.progress("looking at the graph", 0.0)
    source = quantizable(context.inputs["model"], context.inputs["import"], context.scratch)
    context.progress("quantizing the weights", 0.3)
    with refuse_on(Exception, "E425", "the weights cannot be quantized to int4"), quiet():
        integers = options.activations == "int8"
        store_weights(source, context.output / _FILE, bits=4, block=options.block, integers=integers)
    return _described(context, "int4")


def _described(context: StepContext, precision: Precision) -> dict[str, Any]:
    """Compare the file's inputs and outputs with the signature, and describe it."""
    signature, _ = read_import(context.inputs["import"])
    # ONNX's checker does not know ONNX Runtime's own operators; `verify` loads the model and judges its answers.
    size: OnnxSize = onnx_finish.finish(context.output / _FILE, signature, checked=False)
    facts = variant_facts(
        format="onnx",
        precision=precision,
        method="weights" if precision == "int4" else None,
        frozen=VariantFacts.read(context.inputs["model"]).frozen,
        **size,
    )
    facts.write(context.output)
    return facts.summary()
