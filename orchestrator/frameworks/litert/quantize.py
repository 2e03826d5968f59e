"""Makes an int8 variant of a TensorFlow model as LiteRT: calibrated for convolutional models, with dynamic ranges for others.

The rule is the same as for ONNX (`onnx_quantize.py`): the activations of convolutional models keep to ranges that some samples
show, while those of transformers and recurrent models vary too much from call to call. With dynamic ranges the weights are
int8, and LiteRT quantizes the activations as they come. Inputs and outputs stay floats, so that a variant is called as every
other; an operator without an int8 kernel stays float too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.litert.runtime import FILE, open_interpreter
from orchestrator.frameworks.source import calibration
from orchestrator.frameworks.source.variant_facts import write_facts
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from orchestrator.steps import StepContext

__all__ = ["to_int8"]

_CONVOLUTIONS = {"Conv1D", "Conv2D", "Conv3D", "Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNative"}


def to_int8(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.tflite` in int8, calibrated on the samples of `import`.

    Calibrated on every second row at most, so that `verify` compares rows too that the ranges were not made for.

    Params: as `tf_convert.to_tflite`; `seed` chooses among the rows where there are more than `calibration.LARGEST`.

    Raises:
        StepError: as `tf_convert.to_tflite`; E425, the model cannot be quantized or has nothing to quantize.
    """
    if context.params["source"]["kind"] == "tflite":
        raise StepError(
            "E425",
            "a LiteRT model cannot be quantized",
            cause="TensorFlow's converter quantizes while it makes one, and does not read one",
            remedy="quantize it when it is converted, or give the model that it was made from: `kind: keras` or `kind: saved-model`",
        )
    # TensorFlow is loaded only now: a LiteRT model is refused without it.
    from orchestrator.frameworks.tensorflow import convert as tf_convert
    from orchestrator.frameworks.tensorflow.process import tf

    context.progress("loading the model", 0.0)
    job = tf_convert.prepare(context)

    converter, traced = tf_convert.litert_converter(job)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    facts: dict[str, Any] = {"method": "dynamic"}
    if traced.operators() & _CONVOLUTIONS:
        chosen = calibration.choose(context.inputs["import"], context.params["seed"])
        converter.representative_dataset = chosen.calls
        facts = {"method": "static", **chosen.facts}
    context.progress("quantizing", 0.3)
    facts |= tf_convert.write_litert(context, job, converter)
    _, file = open_interpreter(context.output / FILE, 1)
    if not file.quantized:
        raise StepError(
            "E425",
            "the model has nothing to quantize",
            cause="no convolution or matrix product in it is large enough for LiteRT to store its weights in int8",
        )
    return write_facts(context, {**facts, "precision": "int8"})
