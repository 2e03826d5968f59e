"""Makes int8 variants of ONNX models: static quantization for convolutional models, dynamic for all others.

The rule is that of ONNX Runtime's manual: convolutions only get faster if the ranges of their activations are known in
advance, while the activations of transformers and recurrent models vary too much between calls for fixed ranges.
Activations are QUInt8 and weights QInt8, per channel: on x86, this combination has the fast kernels.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import version_converter
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

from orchestrator.artifacts.variant_facts import VariantFacts, variant_facts
from orchestrator.frameworks.onnx.graph import nodes
from orchestrator.frameworks.onnx.smooth import smooth
from orchestrator.frameworks.source import calibration
from orchestrator.frameworks.source.comparison import check_sizes
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import OptimizeParameters
from orchestrator.steps.pass_options import OnnxInt8Options
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.pass_options import QuantizationMethod

__all__ = ["QUANTIZED", "has_float16_weights", "needs_reduced_range", "quantizable", "to_int8"]

OPSET = 13
"""The first opset whose QuantizeLinear has a scale per channel."""

QUANTIZED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
        *(
            "QLinearConv",
            "QLinearMatMul",
            "QLinearAdd",
            "QLinearSoftmax",
            "QGemm",
            "QAttention",
            "QEmbedLayerNormalization",
        ),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4"),
        *("GatherBlockQuantized", "QMoE"),
    }
)
"""Operators of quantized models, both standard ones and ONNX Runtime's own."""


def quantizable(directory: Path, imported: Path, scratch: Path) -> Path:
    """The file to quantize: the variant's own, or a copy with a later opset.

    Args:
        directory: the variant, with `model.onnx`.
        imported: the output of the import step.
        scratch: a folder for the copy.

    Raises:
        StepError: E425, it is already quantized, or its opset cannot be raised.
    """
    path = directory / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    if used := sorted({node.op_type for node in nodes(model)} & QUANTIZED):
        raise StepError(
            "E425",
            "the model is quantized already",
            cause=f"it uses {', '.join(used)}",
            remedy="leave int8 out of `optimize.precisions`, or give the model as it was before quantization",
        )
    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=OPSET)
    return path if opset >= OPSET else _raised(directory, imported, scratch, opset)


def has_float16_weights(path: Path) -> bool:
    """Whether the model has float16 weights, which the quantizer skips."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(tensor.data_type == onnx.TensorProto.FLOAT16 and len(tensor.dims) > 1 for tensor in graph.initializer)


def _raised(directory: Path, imported: Path, scratch: Path, opset: int) -> Path:
    """The model upgraded to the required opset, with the same outputs."""
    raised = scratch / "raised"
    raised.mkdir()
    try:
        converted: Any = version_converter.convert_version(onnx.load(str(directory / "model.onnx")), OPSET)
        onnx.save(converted, str(raised / "model.onnx"))
        signature, samples = read_import(imported)
        before, after = (open_runtime("onnx", folder, signature, threads=1) for folder in (directory, raised))
        check_sizes(signature, samples, before.run, after.run)
    # The converter raises whatever its adapters raise, and its result may not load or may differ.
    except Exception as error:
        cause = error.cause or error.message if isinstance(error, StepError) else headline(error)
        raise StepError(
            "E425",
            f"the model's opset {opset} is too old for int8",
            cause=f"per-channel scales need opset {OPSET}, and raising it fails: {cause}",
            remedy=f"export the model with opset {OPSET} or later",
        ) from error
    return raised / "model.onnx"


_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}


def to_int8(context: StepContext) -> dict[str, Any]:
    """Step: quantize `model` (an fp32 variant with `model.onnx`) to int8, calibrated on the samples of `import`.

    At most every second row is used for calibration, so that `verify` also compares rows that did not set the ranges.

    Params: `seed` selects rows if there are more than `calibration.LARGEST`; `options` changes the rule.

    Raises:
        StepError: E425, the model cannot be quantized, is quantized already, has nothing to quantize, or an option would
            change nothing.
    """
    parameters = OptimizeParameters.from_json(context.params)
    options = parameters.options or OnnxInt8Options()
    context.progress("looking at the graph", 0.0)
    source = quantizable(context.inputs["model"], context.inputs["import"], context.scratch)
    large = source.with_name("model.onnx.data").is_file()
    prepared, target = context.scratch / "prepared.onnx", context.output / "model.onnx"
    reduced = options.weight_bits == 7 or (options.weight_bits == "auto" and needs_reduced_range(Path("/proc/cpuinfo")))
    chosen = calibration.choose(context.inputs["import"], parameters.seed)
    smoothed = None
    # The quantizer raises whatever its operator handlers raise.
    with refuse_on(Exception, "E425", "the model cannot be quantized to int8"), _quiet():
        context.progress("preparing the graph", 0.1)
        # No symbolic shape inference: the exporter has already written the shapes.
        quant_pre_process(
            str(source),
            str(prepared),
            skip_symbolic_shape=True,
            save_as_external_data=large,
            external_data_location=f"{prepared.name}.data" if large else None,
        )
        _forget_shapes(prepared)
        context.progress("quantizing", 0.3)
        static = _is_static(options, prepared)
        if static:
            _static(chosen, prepared, target, options.percentile, reduced=reduced, large=large)
        else:
            smoothed = _smoothed(options, prepared, context.scratch, chosen, large=large)
            quantize_dynamic(
                str(prepared),
                str(target),
                op_types_to_quantize=_quantized_operators(prepared),
                per_channel=True,
                reduce_range=reduced,
                weight_type=QuantType.QInt8,
                use_external_data_format=large,
            )
    if not _operators(target) & QUANTIZED:
        cause = "no convolution or matrix product in it has weights of its own"
        if has_float16_weights(source):
            cause = "its weights are float16; int8 is made from float32 weights"
        raise StepError("E425", "the model has nothing to quantize", cause=cause)
    calibrated = smoothed is None or smoothed > 0
    facts = variant_facts(
        format="onnx",
        precision="int8",
        reduce_range=reduced,
        method="static" if smoothed is None else "dynamic",
        smoothed=smoothed,
        frozen=VariantFacts.read(context.inputs["model"]).frozen,
        calibration=chosen.facts(options.percentile) if calibrated else None,
        notes=chosen.notes if calibrated else (),
    )
    facts.write(context.output)
    return facts.summary()


def _is_static(options: OnnxInt8Options, prepared: Path) -> bool:
    """Whether activations get calibrated ranges.

    Raises:
        StepError: E425, an option is set that is for the other method, so that the variant would be that of another name.
    """
    usual: QuantizationMethod = "static" if _operators(prepared) & _CONVOLUTIONS else "dynamic"
    method = usual if options.method == "auto" else options.method
    if options.method == usual:
        raise _changes_nothing("method", f"{usual} is what `auto` chooses for this model")
    unread = "smoothing" if method == "static" else "percentile"
    if unread in options.changed():
        raise _changes_nothing(unread, f"activations have {method} ranges")
    return method == "static"


def _smoothed(
    options: OnnxInt8Options, prepared: Path, scratch: Path, chosen: calibration.CalibrationRows, *, large: bool
) -> int:
    """Smooth the model in place; returns how many activations were.

    Raises:
        StepError: E425, the option is set and there is nothing to smooth.
    """
    outliers = smooth(prepared, scratch, chosen.calls(), strength=options.smoothing, large=large)
    if "smoothing" in options.changed() and not outliers:
        raise _changes_nothing("smoothing", "no activation of the model has outliers that smoothing moves")
    return outliers if options.smoothing else 0


def _changes_nothing(option: str, cause: str) -> StepError:
    return StepError("E425", f"the option {option} changes nothing here", cause=cause)


def needs_reduced_range(cpuinfo: Path) -> bool:
    """Whether weights must be limited to 7 bits: x86 CPUs without VNNI add pairs of 8-bit products in 16 bits and saturate.

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
    """Gives the calibrator one call after the other."""

    def __init__(self, calls: Iterator[dict[str, Array]]) -> None:
        self._calls = calls

    def get_next(self) -> dict[str, Array] | None:
        """The inputs of the next call; None after the last."""
        return next(self._calls, None)


def _static(
    chosen: calibration.CalibrationRows,
    prepared: Path,
    target: Path,
    percentile: float,
    *,
    reduced: bool,
    large: bool,
) -> None:
    quantize_static(
        str(prepared),
        str(target),
        # Histograms are only collected from calls of one size.
        _Rows(chosen.calls(equal=percentile < 100.0)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduced,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax if percentile == 100.0 else CalibrationMethod.Percentile,
        use_external_data_format=large,
        extra_options={"CalibPercentile": percentile} if percentile < 100.0 else None,
    )


def _forget_shapes(path: Path) -> None:
    """Drop the inner shapes, which the quantizer infers again: it transposes weights but keeps their old shapes."""
    model = onnx.load(str(path), load_external_data=False)
    del model.graph.value_info[:]
    onnx.save(model, str(path))


def _quantized_operators(path: Path) -> list[str]:
    """The operators to quantize; the quantizer confuses the standard `Attention` (opset 23) with ONNX Runtime's own."""
    graph = onnx.load(str(path), load_external_data=False).graph
    standard = any(node.op_type == "Attention" and node.domain in {"", "ai.onnx"} for node in graph.node)
    return [name for name in IntegerOpsRegistry if name != "Attention" or not standard]


def _operators(path: Path) -> set[str]:
    """The operators of the main graph."""
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice that the quantizer logs to the root logger on every call."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
