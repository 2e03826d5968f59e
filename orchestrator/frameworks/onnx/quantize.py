"""Makes an int8 variant of an ONNX model: static quantization for convolutional models, dynamic for all others.

The rule is that of ONNX Runtime's manual: convolutions gain only when their activations are quantized with ranges known
beforehand, while the activations of transformers and recurrent models vary too much from call to call for fixed ranges.
Activations are QUInt8 and weights QInt8, per channel: on x86 this is the pair with the fast kernels.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.registry import IntegerOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from orchestrator.frameworks.onnx.quantizable import QUANTIZED, holds_halves, quantizable
from orchestrator.frameworks.onnx.smooth import smooth
from orchestrator.frameworks.pytorch.export_failure import headline
from orchestrator.frameworks.source import calibration
from orchestrator.frameworks.source.variant_facts import write_facts
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.steps import StepContext

__all__ = ["needs_reduced_range", "to_int8"]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


def to_int8(context: StepContext) -> dict[str, Any]:
    """Step: `model` (a variant that holds `model.onnx` in fp32) as int8, calibrated on the samples of `import`.

    Calibrated on every second row at most, so that `verify` compares rows too that the ranges were not made for.

    Params: `seed` chooses among those where there are more than `calibration.LARGEST`.

    Raises:
        StepError: E425, the model cannot be quantized, is quantized already, or has nothing to quantize.
    """
    context.progress("looking at the graph", 0.0)
    source = quantizable(context.inputs["model"], context.inputs["import"], context.scratch)
    large = source.with_name("model.onnx.data").is_file()
    prepared, target = context.scratch / "prepared.onnx", context.output / "model.onnx"
    reduced = needs_reduced_range(Path("/proc/cpuinfo"))
    facts: dict[str, Any] = {"format": "onnx", "precision": "int8", "reduce_range": reduced}
    try:
        with _quiet():
            context.progress("preparing the graph", 0.1)
            # Symbolic shape inference is left out: the exporter has written the shapes already.
            quant_pre_process(
                str(source),
                str(prepared),
                skip_symbolic_shape=True,
                save_as_external_data=large,
                external_data_location=f"{prepared.name}.data" if large else None,
            )
            _forget_shapes(prepared)
            context.progress("quantizing", 0.3)
            if _operators(prepared) & _CONVOLUTIONS:
                facts |= {"method": "static"} | _static(context, prepared, target, reduced=reduced, large=large)
            else:
                chosen = calibration.choose(context.inputs["import"], context.params["seed"])
                smoothed = smooth(prepared, context.scratch, chosen.calls(), large=large)
                facts |= {"method": "dynamic", "smoothed": smoothed} | (dict(chosen.facts) if smoothed else {})
                quantize_dynamic(
                    str(prepared),
                    str(target),
                    op_types_to_quantize=_quantized_operators(prepared),
                    per_channel=True,
                    reduce_range=reduced,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=large,
                )
    # The quantizer raises what its operator handlers raise.
    except Exception as error:
        raise StepError("E425", "the model cannot be quantized to int8", cause=headline(error)) from error
    if not _operators(target) & QUANTIZED:
        cause = "no convolution or matrix product in it has weights of its own"
        if holds_halves(source):
            cause = "its weights are float16; int8 is made of a model whose weights are float32"
        raise StepError("E425", "the model has nothing to quantize", cause=cause)
    return write_facts(context, facts)


def needs_reduced_range(cpuinfo: Path) -> bool:
    """Whether weights must be kept to 7 bits: x86 CPUs without VNNI add pairs of 8-bit products in 16 bits and saturate.

    Args:
        cpuinfo: `/proc/cpuinfo`.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        return False
    flags = {
        flag
        for line in cpuinfo.read_text("utf-8").splitlines()
        if line.startswith("flags")
        for flag in line.partition(":")[2].split()
    }
    return not flags & _DOT_PRODUCTS


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibrator one call after the other."""

    def __init__(self, calls: Iterator[dict[str, Array]]) -> None:
        self._calls = calls

    def get_next(self) -> dict[str, Array] | None:
        """The next call's inputs, None after the last."""
        return next(self._calls, None)


def _static(context: StepContext, prepared: Path, target: Path, *, reduced: bool, large: bool) -> dict[str, Any]:
    chosen = calibration.choose(context.inputs["import"], context.params["seed"])
    quantize_static(
        str(prepared),
        str(target),
        _Rows(chosen.calls()),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduced,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        use_external_data_format=large,
    )
    return dict(chosen.facts)


def _forget_shapes(path: Path) -> None:
    """Drop the inner shapes, which the quantizer infers again: it transposes weights and keeps their old shapes."""
    model = onnx.load(str(path), load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def _quantized_operators(path: Path) -> list[str]:
    """What the quantizer looks for; it takes the standard's `Attention` (opset 23) for ONNX Runtime's own, which is another."""
    graph = onnx.load(str(path), load_external_data=False).graph
    standard = any(node.op_type == "Attention" and node.domain in {"", "ai.onnx"} for node in graph.node)
    return [name for name in IntegerOpsRegistry if name != "Attention" or not standard]


def _operators(path: Path) -> set[str]:
    """The operators of the main graph."""
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer from advising on the root logger, which it does on every call."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
