"""The passes that change a converted model, one row each: what makes it, what it needs, and which options are worth trying.

To add a pass, add a row and its function; `tests/optimize/test_passes.py` shows what a row needs. Rows stand in the order in
which passes are applied. Which combinations make sense is derived from them (`optimize/combinations.py`), not listed.
Functions are named by string, because planning reads this table and imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from orchestrator.machine.instructions import ARM, DOT_PRODUCTS, X86
from orchestrator.optimize.transform import Transform, Unsupported
from orchestrator.spec.gates import PRECISIONS, Precision
from orchestrator.steps.pass_options import AnyPassOptions, OnnxInt4Options, OnnxInt8Options

__all__ = ["PASSES", "Given", "Needs", "PassRow", "Trial", "passes_of", "precisions_of"]


@dataclass(frozen=True, slots=True)
class Given:
    """What is there for a pass.

    Attributes:
        operators: of the converted model; None if they are not known yet, which rules nothing out.
        architecture: of the machine, as `platform.machine()` names it.
        cpu_flags: of its CPU, as Linux names them.
        samples: whether there are real ones.
    """

    operators: frozenset[str] | None
    architecture: str
    cpu_flags: frozenset[str]
    samples: bool


@dataclass(frozen=True, slots=True)
class Needs:
    """What there has to be for a pass or an option to make sense. What is empty is not asked for.

    Attributes:
        operators: of which the converted model has at least one.
        without_operators: of which it has none.
        architectures: of which the machine has one.
        cpu_flags: of which the CPU has at least one.
        without_cpu_flags: of which it has none.
        samples: whether real samples are needed.
    """

    operators: frozenset[str] = frozenset()
    without_operators: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    cpu_flags: frozenset[str] = frozenset()
    without_cpu_flags: frozenset[str] = frozenset()
    samples: bool = False

    def met(self, given: Given) -> bool:
        """Whether all of it is there."""
        if given.operators is not None and (
            (self.operators and not self.operators & given.operators) or self.without_operators & given.operators
        ):
            return False
        if self.architectures and given.architecture not in self.architectures:
            return False
        if (self.cpu_flags and not self.cpu_flags & given.cpu_flags) or self.without_cpu_flags & given.cpu_flags:
            return False
        return given.samples or not self.samples


NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class Trial:
    """Options of a pass that are worth trying besides the defaults, and where."""

    options: AnyPassOptions
    needs: Needs = NOTHING


@dataclass(frozen=True, slots=True)
class PassRow:
    """One pass for one format.

    Attributes:
        name: as in names of variants: `onnx-int8`.
        kind: `precision`: it changes the arithmetic, and a variant has at most one such pass; `graph`: it does not.
        format: that it changes.
        made: how, or why it is not.
        precision: of the result; None for a pass of the graph, which keeps it.
        needs: without which it is not tried.
        trials: options worth trying besides the defaults, the most promising first.
        relaxed: options for a variant that failed its gates; None where nothing can be relaxed.
        backends: that run its result; empty: all that run the format.
    """

    name: str
    kind: Literal["graph", "precision"]
    format: str
    made: Transform | Unsupported
    precision: Precision | None = None
    needs: Needs = NOTHING
    trials: tuple[Trial, ...] = ()
    relaxed: AnyPassOptions | None = None
    backends: frozenset[str] = frozenset()


_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_WITH_CONVOLUTIONS = Needs(operators=_CONVOLUTIONS)
_WITHOUT_CONVOLUTIONS = Needs(without_operators=_CONVOLUTIONS)
_PRODUCTS = Needs(operators=frozenset({"MatMul", "Gemm"}))
_PRODUCTS_ALONE = Needs(operators=_PRODUCTS.operators, without_operators=_CONVOLUTIONS)
_ONNX_QUANTIZER = ("onnx", "onnxruntime")

_TORCH_FORMATS = ("torchscript", "exported-program")
_REWRITE = "orchestrator.frameworks.onnx.rewrite"

_NARROW = "orchestrator.frameworks.onnx.narrow"


def _not_made(precision: Precision, reason: str, *formats: str) -> tuple[PassRow, ...]:
    return tuple(PassRow(precision, "precision", name, Unsupported(reason), precision=precision) for name in formats)


PASSES: tuple[PassRow, ...] = (
    PassRow("slim", "graph", "onnx", Transform(f"{_REWRITE}:to_slim", ("onnx", "onnxruntime", "onnxslim"))),
    PassRow(
        "fuse",
        "graph",
        "onnx",
        Transform(f"{_REWRITE}:to_fused", ("onnx", "onnxruntime"), revision=2),
        needs=Needs(operators=frozenset({"Softmax"})),
    ),
    PassRow(
        "int8",
        "precision",
        "onnx",
        Transform(
            "orchestrator.frameworks.onnx.quantize:to_int8",
            _ONNX_QUANTIZER,
            revision=8,
            needs_cpu_features=True,
            options=OnnxInt8Options,
        ),
        precision="int8",
        needs=Needs(samples=True),
        trials=(
            # Eight bits may saturate there, and the gates say whether they do.
            Trial(OnnxInt8Options(weight_bits=8), Needs(architectures=X86, without_cpu_flags=DOT_PRODUCTS)),
            Trial(OnnxInt8Options(weight_bits=7), Needs(architectures=X86, cpu_flags=DOT_PRODUCTS)),
            Trial(OnnxInt8Options(percentile=99.99), _WITH_CONVOLUTIONS),
            Trial(OnnxInt8Options(calibration="entropy"), _WITH_CONVOLUTIONS),
            Trial(OnnxInt8Options(per_channel=False)),
            Trial(OnnxInt8Options(types="u8u8")),
            # Kernels for signed activations are the fast ones on ARM; on x86 they are not, whatever it has.
            Trial(OnnxInt8Options(types="s8s8"), Needs(operators=_CONVOLUTIONS, architectures=ARM)),
            Trial(OnnxInt8Options(method="static"), _WITHOUT_CONVOLUTIONS),
            # The whole range of an activation with outliers leaves few steps for the rest.
            Trial(OnnxInt8Options(method="static", percentile=99.99), _PRODUCTS_ALONE),
            Trial(OnnxInt8Options(method="static", calibration="entropy"), _PRODUCTS_ALONE),
            Trial(OnnxInt8Options(method="weights"), _PRODUCTS),
            Trial(OnnxInt8Options(smoothing=0.0), _WITHOUT_CONVOLUTIONS),
            Trial(OnnxInt8Options(smoothing=0.5), _WITHOUT_CONVOLUTIONS),
        ),
        relaxed=OnnxInt8Options(exclude="auto"),
    ),
    PassRow(
        "bf16",
        "precision",
        "onnx",
        Unsupported("ONNX Runtime has no bfloat16 kernels for CPUs, and few for GPUs"),
        precision="bf16",
    ),
    # ONNX Runtime converts to float32 where it has no float16 kernel, as for most operators on CPUs; measuring tells.
    PassRow("fp16", "precision", "onnx", Transform(f"{_NARROW}:to_fp16", _ONNX_QUANTIZER), precision="fp16"),
    PassRow(
        "int4",
        "precision",
        "onnx",
        Transform(f"{_NARROW}:to_int4", _ONNX_QUANTIZER, options=OnnxInt4Options),
        precision="int4",
        needs=_PRODUCTS,
        trials=(
            Trial(OnnxInt4Options(activations="int8")),
            Trial(OnnxInt4Options(block=16)),
            Trial(OnnxInt4Options(block=128)),
        ),
        relaxed=OnnxInt4Options(block=16),
    ),
    PassRow(
        "ort",
        "graph",
        "onnx",
        Transform(f"{_REWRITE}:to_optimized", ("onnx", "onnxruntime"), needs_cpu_features=True),
        backends=frozenset({"onnxruntime"}),  # the result holds operators of its own
    ),
    PassRow(
        "bf16",
        "precision",
        "torchscript",
        Transform(
            "orchestrator.frameworks.pytorch.convert:torchscript_to_bf16", ("torch",), revision=7, from_source=True
        ),
        precision="bf16",
    ),
    PassRow(
        "int8",
        "precision",
        "torchscript",
        Unsupported("PyTorch's own int8 quantization is being removed; int8 is made in the onnx format"),
        precision="int8",
    ),
    PassRow(
        "bf16",
        "precision",
        "exported-program",
        Transform(
            "orchestrator.frameworks.pytorch.convert:exported_program_to_bf16",
            ("torch",),
            revision=7,
            from_source=True,
        ),
        precision="bf16",
    ),
    PassRow(
        "int8",
        "precision",
        "exported-program",
        Unsupported("PyTorch's own int8 quantization is being removed; int8 is made in the onnx format"),
        precision="int8",
    ),
    PassRow(
        "bf16",
        "precision",
        "saved-model",
        Unsupported("TensorFlow has bfloat16 kernels for few CPUs, and TensorFlow Serving guarantees none"),
        precision="bf16",
    ),
    PassRow(
        "int8",
        "precision",
        "saved-model",
        Unsupported("TensorFlow has no int8 SavedModel; int8 is made in the onnx and tflite formats"),
        precision="int8",
    ),
    PassRow(
        "int8",
        "precision",
        "tflite",
        Transform(
            "orchestrator.frameworks.litert.convert:to_int8",
            ("tensorflow", "ai-edge-litert"),
            revision=5,
            from_source=True,
            not_from=MappingProxyType(
                {"tflite": "LiteRT quantizes during conversion, and this model is already converted"}
            ),
        ),
        precision="int8",
        needs=Needs(samples=True),
    ),
    PassRow("bf16", "precision", "tflite", Unsupported("LiteRT has no bfloat16 kernels"), precision="bf16"),
    PassRow(
        "inference",
        "graph",
        "torchscript",
        Unsupported(
            "PyTorch does not load what torch.jit.optimize_for_inference makes of a convolution from an archive again; the "
            "conversion has frozen the archive already"
        ),
    ),
    PassRow(
        "aot-inductor",
        "graph",
        "exported-program",
        Unsupported(
            "AOTInductor compiles a library for one kind of CPU and one version of PyTorch, and no server here loads it"
        ),
    ),
    PassRow(
        "grappler",
        "graph",
        "saved-model",
        Unsupported(
            "TensorFlow's runtime runs grappler on every graph by default, so there is nothing left to do in advance"
        ),
    ),
    PassRow(
        "xla",
        "graph",
        "saved-model",
        Unsupported(
            "XLA compiles anew for each size of the inputs, during the first request that has it, and TensorFlow Serving has it for "
            "CPUs only as an experiment, besides the SavedModel (`--xla_cpu_compilation_enabled`)"
        ),
    ),
    *_not_made(
        "fp16",
        "PyTorch's half precision for CPUs is bf16 here, which has the range of float32; float16 is made in the onnx format",
        *_TORCH_FORMATS,
    ),
    *_not_made(
        "int4",
        "PyTorch quantizes to int4 with the package torchao, which mlo does not use; int4 is made in the onnx format",
        *_TORCH_FORMATS,
    ),
    *_not_made(
        "fp16", "mlo has no conversion of a SavedModel to float16; float16 is made in the onnx format", "saved-model"
    ),
    *_not_made("int4", "mlo has no conversion of a SavedModel to int4; int4 is made in the onnx format", "saved-model"),
    *_not_made(
        "fp16",
        "it would only change how weights are stored: on CPUs, LiteRT makes them float32 before the first call",
        "tflite",
    ),
    *_not_made(
        "int4",
        "TensorFlow's converter to LiteRT offers no 4-bit weights after training; int4 is made in the onnx format",
        "tflite",
    ),
)
"""Every pass, in the order in which they are applied."""


def passes_of(format_name: str) -> tuple[PassRow, ...]:
    """The rows of a format, in the order in which they are applied."""
    return tuple(row for row in PASSES if row.format == format_name)


def precisions_of(format_name: str) -> Mapping[Precision, Transform | Unsupported]:
    """Precision → what makes it of the converted model, or the reason why nothing does."""
    made = {row.precision: row.made for row in passes_of(format_name)}
    made["fp32"] = Transform(function=None)
    return MappingProxyType({precision: made[precision] for precision in PRECISIONS})
