"""The formats a model is converted to: file, converter, precisions and backends of each. Data only.

To add a format, add a row; `tests/optimize/test_formats.py` shows what it needs. Functions are named by string, because
planning reads this table and imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.steps.pass_options import OnnxInt8Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.steps.pass_options import AnyPassOptions

__all__ = ["FORMATS", "Format", "Transform", "Unsupported"]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A combination that is not tried, and why, in one sentence without a full stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Transform:
    """How something is made: a step function by name, and the packages whose versions its result depends on.

    Attributes:
        function: `module:function`; takes a StepContext. None if the converted file is already the variant.
        tools: names of distributions.
        revision: increased when the function's results or refusals change, so that older results are computed again.
        from_source: the function starts from the source model (inputs `weights` and `import`), not from the converted
            variant (inputs `model` and `import`).
        needs_cpu_features: whether the result depends on the machine's instruction sets.
        as_given: whether the result is the original model, the baseline, which is served if no candidate is better. The
            format is the source's own, or replaces one that no server supports.
        not_from: kinds of sources that it is not made from, each with the reason.
        options: the class of what it can vary; None for one that has no options.
    """

    function: str | None
    tools: tuple[str, ...] = ()
    revision: int = 1
    from_source: bool = False
    needs_cpu_features: bool = False
    as_given: bool = False
    not_from: Mapping[str, str] = field(default_factory=dict)
    options: type[AnyPassOptions] | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """One file format.

    Attributes:
        name: as in the spec's `optimize.formats`.
        file: name of the model file in a variant.
        convert: source kind → the conversion, or the reason why there is none.
        precisions: precision → the transformation of the converted model, or the reason why there is none.
    """

    name: str
    file: str
    convert: Mapping[str, Transform | Unsupported]
    precisions: Mapping[str, Transform | Unsupported]


_AS_CONVERTED = Transform(function=None)
_TORCH_KINDS = ("pytorch", "torchscript", "exported-program", "transformers")
_TENSORFLOW_KINDS = ("keras", "saved-model")
_TF_CONVERT = "orchestrator.frameworks.tensorflow.convert"
_TFLITE_CONVERT = "orchestrator.frameworks.litert.convert"
_TORCH_CONVERT = "orchestrator.frameworks.pytorch.convert"
_ONNX_TOOLS = ("onnx", "onnxruntime", "onnxscript", "torch")
_TF2ONNX_TOOLS = ("onnx", "onnxruntime", "tensorflow", "tf2onnx")


def _from(kinds: tuple[str, ...], transform: Transform | Unsupported) -> dict[str, Transform | Unsupported]:
    return dict.fromkeys(kinds, transform)


_ONNX = Format(
    name="onnx",
    file="model.onnx",
    convert=MappingProxyType(
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_onnx", _ONNX_TOOLS, revision=6))
        | _from(_TENSORFLOW_KINDS, Transform(f"{_TF_CONVERT}:to_onnx", _TF2ONNX_TOOLS, revision=5))
        | {
            "onnx": Transform(
                "orchestrator.frameworks.onnx.convert:to_onnx", ("onnx", "onnxruntime"), revision=6, as_given=True
            ),
            "tflite": Transform(
                f"{_TFLITE_CONVERT}:to_onnx", (*_TF2ONNX_TOOLS, "ai-edge-litert"), revision=5, as_given=True
            ),
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Unsupported("ONNX Runtime has no bfloat16 kernels for CPUs, and few for GPUs"),
            "int8": Transform(
                "orchestrator.frameworks.onnx.quantize:to_int8",
                ("onnx", "onnxruntime"),
                revision=4,
                needs_cpu_features=True,
                options=OnnxInt8Options,
            ),
        }
    ),
)

_NO_TORCH_INT8 = Unsupported("PyTorch's own int8 quantization is being removed; int8 is made in the onnx format")


def _not_torch(format_name: str) -> dict[str, Transform | Unsupported]:
    reason = f"only PyTorch models can be converted to {format_name}"
    return _from((*_TENSORFLOW_KINDS, "onnx", "tflite"), Unsupported(reason))


_TORCHSCRIPT = Format(
    name="torchscript",
    file="model.pt",
    convert=MappingProxyType(
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_torchscript", ("torch",), revision=6))
        | _not_torch("TorchScript")
        | {"torchscript": Transform(f"{_TORCH_CONVERT}:to_torchscript", ("torch",), revision=6, as_given=True)}
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Transform(
                "orchestrator.frameworks.pytorch.convert:torchscript_to_bf16",
                ("torch",),
                revision=6,
                from_source=True,
            ),
            "int8": _NO_TORCH_INT8,
        }
    ),
)

_EXPORTED_PROGRAM = Format(
    name="exported-program",
    file="model.pt2",
    convert=MappingProxyType(
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_exported_program", ("torch",), revision=6))
        | _not_torch("exported programs")
        | {
            "exported-program": Transform(
                f"{_TORCH_CONVERT}:to_exported_program", ("torch",), revision=6, as_given=True
            ),
            "torchscript": Unsupported(
                "torch.export traces Python code, and a TorchScript archive has none; "
                "give the weights and the factory as `kind: pytorch`"
            ),
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Transform(
                "orchestrator.frameworks.pytorch.convert:exported_program_to_bf16",
                ("torch",),
                revision=6,
                from_source=True,
            ),
            "int8": _NO_TORCH_INT8,
        }
    ),
)


def _not_tensorflow(format_name: str) -> dict[str, Transform | Unsupported]:
    return _from((*_TORCH_KINDS, "onnx"), Unsupported(f"only TensorFlow models can be converted to {format_name}"))


_NO_TF_BF16 = Unsupported("TensorFlow has bfloat16 kernels for few CPUs, and TensorFlow Serving guarantees none")

_SAVED_MODEL = Format(
    name="saved-model",
    file="saved_model",
    convert=MappingProxyType(
        _not_tensorflow("SavedModels")
        | {
            "keras": Transform(f"{_TF_CONVERT}:to_saved_model", ("tensorflow", "keras"), revision=5),
            "saved-model": Transform(f"{_TF_CONVERT}:to_saved_model", ("tensorflow",), revision=6, as_given=True),
            "tflite": Unsupported("a LiteRT model cannot be converted back to a SavedModel"),
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": _NO_TF_BF16,
            "int8": Unsupported("TensorFlow has no int8 SavedModel; int8 is made in the onnx and tflite formats"),
        }
    ),
)

_TFLITE = Format(
    name="tflite",
    file="model.tflite",
    convert=MappingProxyType(
        _not_tensorflow("LiteRT models")
        | _from(_TENSORFLOW_KINDS, Transform(f"{_TF_CONVERT}:to_tflite", ("tensorflow", "ai-edge-litert"), revision=5))
        | {"tflite": Transform(f"{_TFLITE_CONVERT}:to_tflite", ("ai-edge-litert",), revision=5, as_given=True)}
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Unsupported("LiteRT has no bfloat16 kernels"),
            "int8": Transform(
                "orchestrator.frameworks.litert.convert:to_int8",
                ("tensorflow", "ai-edge-litert"),
                revision=4,
                from_source=True,
                not_from=MappingProxyType(
                    {"tflite": "LiteRT quantizes during conversion, and this model is already converted"}
                ),
            ),
        }
    ),
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {f.name: f for f in (_ONNX, _TORCHSCRIPT, _EXPORTED_PROGRAM, _SAVED_MODEL, _TFLITE)}
)
"""Every format by name, in the order in which candidates are tried."""
