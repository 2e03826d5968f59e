"""The formats a model is converted to: file and converter of each; its passes are in `optimize/passes.py`. Data only.

To add a format, add a row; `tests/optimize/test_formats.py` shows what it needs. Functions are named by string, because
planning reads this table and imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from orchestrator.optimize.passes import precisions_of
from orchestrator.optimize.transform import Transform, Unsupported
from orchestrator.spec.gates import Precision

__all__ = ["FORMATS", "Format"]


@dataclass(frozen=True, slots=True)
class Format:
    """One file format.

    Attributes:
        name: as in the spec's `optimize.formats`.
        file: name of the model file in a variant.
        convert: source kind → the conversion, or the reason why there is none.
        precisions: precision → the pass that makes it of the converted model, or the reason why there is none.
    """

    name: str
    file: str
    convert: Mapping[str, Transform | Unsupported]
    precisions: Mapping[Precision, Transform | Unsupported]


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
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_onnx", _ONNX_TOOLS, revision=7))
        | _from(_TENSORFLOW_KINDS, Transform(f"{_TF_CONVERT}:to_onnx", _TF2ONNX_TOOLS, revision=6))
        | {
            "onnx": Transform(
                "orchestrator.frameworks.onnx.convert:to_onnx", ("onnx", "onnxruntime"), revision=7, as_given=True
            ),
            "tflite": Transform(
                f"{_TFLITE_CONVERT}:to_onnx", (*_TF2ONNX_TOOLS, "ai-edge-litert"), revision=6, as_given=True
            ),
        }
    ),
    precisions=precisions_of("onnx"),
)


def _not_torch(format_name: str) -> dict[str, Transform | Unsupported]:
    reason = f"only PyTorch models can be converted to {format_name}"
    return _from((*_TENSORFLOW_KINDS, "onnx", "tflite"), Unsupported(reason))


_TORCHSCRIPT = Format(
    name="torchscript",
    file="model.pt",
    convert=MappingProxyType(
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_torchscript", ("torch",), revision=7))
        | _not_torch("TorchScript")
        | {"torchscript": Transform(f"{_TORCH_CONVERT}:to_torchscript", ("torch",), revision=7, as_given=True)}
    ),
    precisions=precisions_of("torchscript"),
)

_EXPORTED_PROGRAM = Format(
    name="exported-program",
    file="model.pt2",
    convert=MappingProxyType(
        _from(_TORCH_KINDS, Transform(f"{_TORCH_CONVERT}:to_exported_program", ("torch",), revision=7))
        | _not_torch("exported programs")
        | {
            "exported-program": Transform(
                f"{_TORCH_CONVERT}:to_exported_program", ("torch",), revision=7, as_given=True
            ),
            "torchscript": Unsupported(
                "torch.export traces Python code, and a TorchScript archive has none; "
                "give the weights and the factory as `kind: pytorch`"
            ),
        }
    ),
    precisions=precisions_of("exported-program"),
)


def _not_tensorflow(format_name: str) -> dict[str, Transform | Unsupported]:
    return _from((*_TORCH_KINDS, "onnx"), Unsupported(f"only TensorFlow models can be converted to {format_name}"))


_SAVED_MODEL = Format(
    name="saved-model",
    file="saved_model",
    convert=MappingProxyType(
        _not_tensorflow("SavedModels")
        | {
            "keras": Transform(f"{_TF_CONVERT}:to_saved_model", ("tensorflow", "keras"), revision=6),
            "saved-model": Transform(f"{_TF_CONVERT}:to_saved_model", ("tensorflow",), revision=7, as_given=True),
            "tflite": Unsupported("a LiteRT model cannot be converted back to a SavedModel"),
        }
    ),
    precisions=precisions_of("saved-model"),
)

_TFLITE = Format(
    name="tflite",
    file="model.tflite",
    convert=MappingProxyType(
        _not_tensorflow("LiteRT models")
        | _from(_TENSORFLOW_KINDS, Transform(f"{_TF_CONVERT}:to_tflite", ("tensorflow", "ai-edge-litert"), revision=6))
        | {"tflite": Transform(f"{_TFLITE_CONVERT}:to_tflite", ("ai-edge-litert",), revision=6, as_given=True)}
    ),
    precisions=precisions_of("tflite"),
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {f.name: f for f in (_ONNX, _TORCHSCRIPT, _EXPORTED_PROGRAM, _SAVED_MODEL, _TFLITE)}
)
"""Every format by name, in the order in which candidates are tried."""
