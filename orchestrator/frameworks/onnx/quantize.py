"""Makes int8 variants of ONNX models: static quantization for convolutional models, dynamic for all others.

The rule is that of ONNX Runtime's manual: convolutions only get faster if the ranges of their activations are known in
advance, while the activations of transformers and recurrent models vary too much between calls for fixed ranges.
Activations are QUInt8 and weights QInt8, per channel: on x86, this combination has the fast kernels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_dynamic,
    quantize_static,
    save_tensors_data,
)
from onnxruntime.quantization.registry import IntegerOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from orchestrator.artifacts.variant_facts import VariantFacts, variant_facts
from orchestrator.frameworks.onnx.graph import nodes
from orchestrator.frameworks.onnx.rewrite import quiet
from orchestrator.frameworks.onnx.sensitive import LeftOut, leave_out
from orchestrator.frameworks.onnx.smooth import smooth
from orchestrator.frameworks.onnx.weights import store_weights
from orchestrator.frameworks.source import calibration
from orchestrator.frameworks.source.comparison import check_sizes
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import RUNTIMES, open_runtime, open_with
from orchestrator.machine.instructions import cpu_flags, saturates
from orchestrator.spec.gates import DEFAULT_GATES
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import OptimizeParameters
from orchestrator.steps.pass_options import OnnxInt8Options
from orchestrator.steps.reasons import headline
from orchestrator.verify.gates import Gates
from orchestrator.verify.step import holds_gates

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.pass_options import QuantizationMethod

__all__ = ["QUANTIZED", "has_float16_weights", "quantizable", "to_int8"]

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
_TYPES = {
    "u8s8": (QuantType.QUInt8, QuantType.QInt8),
    "u8u8": (QuantType.QUInt8, QuantType.QUInt8),
    "s8s8": (QuantType.QInt8, QuantType.QInt8),
}

RANKING_CALLS = 2
"""Calls on calibration rows with which layers are ranked."""

ENTROPY_BINS = 1024

SHOWN_LAYERS = 5


def to_int8(context: StepContext) -> dict[str, Any]:
    """Step: quantize `model` (an fp32 variant with `model.onnx`) to int8, calibrated on the samples of `import`.

    At most every second row is used for calibration, so that `verify` also compares rows that did not set the ranges.

    Params: `seed` selects rows if there are more than `calibration.LARGEST`; `options` changes the rule; `gates` are what
        `exclude` looks at, in the runtimes that `judged_in` names.

    Raises:
        StepError: E425, the model cannot be quantized, is quantized already, has nothing to quantize, or an option would
            change nothing.
    """
    begun = time.monotonic()
    parameters = OptimizeParameters.from_json(context.params)
    options = parameters.options or OnnxInt8Options()
    if not isinstance(options, OnnxInt8Options):
        raise TypeError(f"int8 takes its own options, not {type(options).__name__}")
    context.progress("looking at the graph", 0.0)
    source = quantizable(context.inputs["model"], context.inputs["import"], context.scratch)
    if options.method == "weights":
        return _weights_alone(context, source, options)
    large = source.with_name("model.onnx.data").is_file()
    prepared, target = context.scratch / "prepared.onnx", context.output / "model.onnx"
    reduced = options.weight_bits == 7 or (options.weight_bits == "auto" and saturates(cpu_flags()))
    chosen = calibration.choose(context.inputs["import"], parameters.seed)
    smoothed, left = None, None
    # The quantizer raises whatever its operator handlers raise.
    with refuse_on(Exception, "E425", "the model cannot be quantized to int8"), quiet():
        context.progress("preparing the graph", 0.1)
        # No symbolic shape inference: the exporter has already written the shapes.
        quant_pre_process(
            str(source),
            str(prepared),
            skip_symbolic_shape=True,
            save_as_external_data=large,
            external_data_location=f"{prepared.name}.data" if large else None,
        )
        _name_nodes(prepared)
        static = _is_static(options, prepared)
        if not static:
            smoothed = _smoothed(options, prepared, context.scratch, chosen, large=large)
        _name_nodes(prepared)
        way = _Static if static else _Dynamic
        quantize = way(prepared, options, reduced, large, chosen, context.scratch / "ranges.json")
        if options.exclude == "auto":
            budget = parameters.time_budget
            left = leave_out(
                prepared,
                target,
                context.scratch,
                islice(chosen.calls(), RANKING_CALLS),
                quantize,
                _holds(context, parameters),
                context.progress,
                # The step is stopped by all the time that it takes, and preparing the graph is a part of that.
                seconds=None if budget is None else budget - (time.monotonic() - begun),
            )
        else:
            context.progress("quantizing", 0.3)
            quantize(target)
    if not _operators(target) & QUANTIZED:
        cause = "no convolution or matrix product in it has weights of its own"
        if has_float16_weights(source):
            cause = "its weights are float16; int8 is made from float32 weights"
        raise StepError("E425", "the model has nothing to quantize", cause=cause)
    calibrated = static or bool(smoothed)
    facts = variant_facts(
        format="onnx",
        precision="int8",
        reduce_range=reduced,
        method="static" if static else "dynamic",
        smoothed=smoothed,
        float_layers=None if left is None else left.layers,
        frozen=VariantFacts.read(context.inputs["model"]).frozen,
        calibration=chosen.facts(options.percentile, options.calibration) if calibrated else None,
        notes=(*(chosen.notes if calibrated else ()), *_left_out(left)),
    )
    facts.write(context.output)
    return facts.summary()


def _holds(context: StepContext, parameters: OptimizeParameters) -> Callable[[Path], bool]:
    """Whether the model at a path holds the gates as `verify` judges them, in every runtime that is to run it."""
    imported = context.inputs["import"]
    signature, _ = read_import(imported)
    gates = Gates(DEFAULT_GATES["int8"], parameters.gates or {})
    openers = parameters.judged_in or (RUNTIMES["onnx"],)

    def holds(path: Path) -> bool:
        return all(
            holds_gates(open_with(opener, path.parent, signature, threads=1), imported, gates) for opener in openers
        )

    return holds


def _left_out(left: LeftOut | None) -> tuple[str, ...]:
    """A note about the layers that stayed in floating point."""
    if left is None:
        return ()
    layers = left.layers
    shown = ", ".join(f"{each.name} ({each.operator}, {each.error:.2g})" for each in layers[:SHOWN_LAYERS])
    more = f" and {len(layers) - SHOWN_LAYERS} more" if len(layers) > SHOWN_LAYERS else ""
    stay = "1 layer stays" if len(layers) == 1 else f"{len(layers)} layers stay"
    note = f"{stay} in float32, because the gates fail with all of them in int8: {shown}{more}"
    hurried = "; with a longer `optimize.time_budget`, fewer layers might be found to be enough" if left.hurried else ""
    return (f"{note}; the number is the relative error of an output with that layer alone in int8{hurried}",)


def _weights_alone(context: StepContext, source: Path, options: OnnxInt8Options) -> dict[str, Any]:
    """The model with the weights of its matrix products in blocks of int8."""
    if unread := [name for name in options.changed() if name != "method"]:
        raise _changes_nothing(unread[0], "only weights are in int8")
    context.progress("quantizing the weights", 0.3)
    with refuse_on(Exception, "E425", "the weights cannot be quantized to int8"), quiet():
        store_weights(source, context.output / "model.onnx", bits=8)
    facts = variant_facts(
        format="onnx",
        precision="int8",
        method="weights",
        reduce_range=True,  # no product of 8-bit numbers is added up in 16 bits
        frozen=VariantFacts.read(context.inputs["model"]).frozen,
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
    changed = options.changed()
    for unread in ("smoothing",) if method == "static" else ("percentile", "calibration"):
        if unread in changed:
            raise _changes_nothing(unread, f"activations have {method} ranges")
    if options.calibration == "entropy" and "percentile" in changed:
        raise _changes_nothing("percentile", "ranges are those of the least loss of information")
    if method == "dynamic" and options.types == "s8s8":
        raise _changes_nothing("types", "dynamic ranges are always those of unsigned numbers")
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


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Gives the calibrator one call after the other."""

    def __init__(self, calls: Iterator[dict[str, Array]]) -> None:
        self._calls = calls

    def get_next(self) -> dict[str, Array] | None:
        """The inputs of the next call; None after the last."""
        return next(self._calls, None)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a prepared model is quantized; see `sensitive.Quantize`.

    Attributes:
        reduced: whether weights have 7 bits.
        large: whether weights are in a second file.
        ranges: where calibrated ranges are kept from one quantization to the next.
    """

    prepared: Path
    options: OnnxInt8Options
    reduced: bool
    large: bool
    chosen: calibration.CalibrationRows
    ranges: Path

    @property
    def types(self) -> tuple[QuantType, QuantType]:
        """Of activations and weights."""
        return _TYPES[self.options.types]


class _Static(_Way):
    """With calibrated ranges, as pairs of QuantizeLinear and DequantizeLinear."""

    __slots__ = ()

    def __call__(self, target: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        """See `sensitive.Quantize`."""
        if self._rule != CalibrationMethod.MinMax and not self.ranges.exists():
            self._find_ranges()
        activations, weights = self.types
        extra: dict[str, Any] = {}
        if activations == QuantType.QInt8:
            extra["ActivationSymmetric"] = True  # the kernels for signed numbers expect zero at zero
        quantize_static(
            str(self.prepared),
            str(target),
            _Rows(self.chosen.calls()),
            quant_format=QuantFormat.QDQ,
            per_channel=self.options.per_channel,
            reduce_range=self.reduced,
            activation_type=activations,
            weight_type=weights,
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(without),
            calibrate_method=self._rule,
            calibration_cache_path=self.ranges,
            use_external_data_format=self.large,
            extra_options=extra,
        )

    @property
    def _rule(self) -> CalibrationMethod:
        if self.options.calibration == "entropy":
            return CalibrationMethod.Entropy
        return CalibrationMethod.MinMax if self.options.percentile == 100.0 else CalibrationMethod.Percentile

    def _find_ranges(self) -> None:
        """Keep the ranges that are found from histograms of all activations, one call after the other.

        `quantize_static` would hold the activations of all calls at once, which take gigabytes. And for the least loss of information it
        asks for as many bins as int8 has values, which leaves one range to choose: the whole one.
        """
        entropy = {"num_bins": ENTROPY_BINS, "num_quantized_bins": 128}
        calibrator = create_calibrator(
            self.prepared,
            augmented_model_path=str(self.ranges.with_name("watched.onnx")),
            calibrate_method=self._rule,
            use_external_data_format=self.large,
            extra_options=entropy if self.options.calibration == "entropy" else {"percentile": self.options.percentile},
        )
        # Histograms are only collected from calls of one size.
        for inputs in self.chosen.calls(equal=True):
            calibrator.collect_data(_Rows(iter([inputs])))
        save_tensors_data(calibrator.compute_data(), self.ranges)


class _Dynamic(_Way):
    """With a new range of every activation at every call."""

    __slots__ = ()

    def __call__(self, target: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()) -> None:
        """See `sensitive.Quantize`."""
        quantize_dynamic(
            str(self.prepared),
            str(target),
            op_types_to_quantize=_quantized_operators(self.prepared),
            per_channel=self.options.per_channel,
            reduce_range=self.reduced,
            weight_type=self.types[1],
            nodes_to_quantize=list(only),
            nodes_to_exclude=list(without),
            use_external_data_format=self.large,
        )


def _name_nodes(path: Path) -> None:
    """Name every node, which is how the quantizer is told of one, and drop the inner shapes.

    The quantizer infers shapes again: it transposes weights but keeps their old shapes. Types stay, since it infers none after an
    operator of ONNX Runtime's own.
    """
    model = onnx.load(str(path), load_external_data=False)
    for value in model.graph.value_info:
        value.type.tensor_type.ClearField("shape")
    taken = {node.name for node in model.graph.node if node.name}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            name = f"{node.op_type}_{number}"
            node.name = name if name not in taken else f"{name}_{len(taken)}"
            taken.add(node.name)
    onnx.save(model, str(path))


def _quantized_operators(path: Path) -> list[str]:
    """The operators to quantize; the quantizer confuses the standard `Attention` (opset 23) with ONNX Runtime's own."""
    graph = onnx.load(str(path), load_external_data=False).graph
    standard = any(node.op_type == "Attention" and node.domain in {"", "ai.onnx"} for node in graph.node)
    return [name for name in IntegerOpsRegistry if name != "Attention" or not standard]


def _operators(path: Path) -> set[str]:
    """The operators of the main graph."""
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
