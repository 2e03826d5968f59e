"""The formats a model is converted to: file, converter, precisions, runtime and backend of each. Data only.

To add a format, add a row; `tests/optimize/test_formats.py` says what the row must name. Functions are named by
string, since planning reads this table and imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FORMATS", "Format", "Refused", "Way", "variant_name"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A combination that is refused when planning, and why, in one sentence without a full stop."""

    reason: str


@dataclass(frozen=True, slots=True)
class Way:
    """How something is made: a step function by name, and the packages whose versions its result depends on.

    Attributes:
        function: `module:function`; takes a StepContext. None: the converted file is the variant already.
        tools: names of packages, as their distributions are called.
        from_source: the function starts from the source model (inputs `weights` and `import`), not from the converted
            variant (inputs `model` and `import`).
        needs_cpu_features: the result depends on the machine's instruction sets.
    """

    function: str | None
    tools: tuple[str, ...] = ()
    from_source: bool = False
    needs_cpu_features: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """One file format.

    Attributes:
        name: as in the spec's `optimize.formats`.
        file: the model file's name inside a variant.
        runtime: `module:function`, `open_*(directory, signature, threads) -> Runtime`.
        runtime_tools: the packages that run it.
        backend: the backend that serves it.
        convert: source kind → how it is converted, or why it is not.
        precisions: precision → how the variant is made, or why it is not.
    """

    name: str
    file: str
    runtime: str
    runtime_tools: tuple[str, ...]
    backend: str
    convert: Mapping[str, Way | Refused]
    precisions: Mapping[str, Way | Refused]


_AS_CONVERTED = Way(function=None)
_ONNX_TOOLS = ("onnx", "onnxruntime", "onnxscript", "torch")

_ONNX = Format(
    name="onnx",
    file="model.onnx",
    runtime="orchestrator.frameworks.ort_runtime:open_onnx",
    runtime_tools=("onnxruntime",),
    backend="onnxruntime",
    convert=MappingProxyType(
        {
            "pytorch": Way("orchestrator.frameworks.torch_convert:to_onnx", _ONNX_TOOLS),
            "torchscript": Way("orchestrator.frameworks.torch_convert:to_onnx", _ONNX_TOOLS),
            "exported-program": Way("orchestrator.frameworks.torch_convert:to_onnx", _ONNX_TOOLS),
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Refused("the CPU provider of ONNX Runtime has no bfloat16 kernels"),
            "int8": Way(
                "orchestrator.frameworks.onnx_quantize:to_int8", ("onnx", "onnxruntime"), needs_cpu_features=True
            ),
        }
    ),
)

_NO_TORCH_INT8 = Refused("PyTorch's own int8 quantization is being removed; int8 is made in the onnx format")

_TORCHSCRIPT = Format(
    name="torchscript",
    file="model.pt",
    runtime="orchestrator.frameworks.torch_runtime:open_torchscript",
    runtime_tools=("torch",),
    backend="torchserve",
    convert=MappingProxyType(
        {
            kind: Way("orchestrator.frameworks.torch_convert:to_torchscript", ("torch",))
            for kind in ("pytorch", "torchscript", "exported-program")
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Way("orchestrator.frameworks.torch_precision:torchscript_to_bf16", ("torch",), from_source=True),
            "int8": _NO_TORCH_INT8,
        }
    ),
)

_EXPORTED_PROGRAM = Format(
    name="exported-program",
    file="model.pt2",
    runtime="orchestrator.frameworks.torch_runtime:open_exported_program",
    runtime_tools=("torch",),
    backend="torchserve",
    convert=MappingProxyType(
        {
            "pytorch": Way("orchestrator.frameworks.torch_convert:to_exported_program", ("torch",)),
            "torchscript": Refused(
                "torch.export traces Python code, and a TorchScript archive has none; "
                "give the weights and the factory as `kind: pytorch`"
            ),
            "exported-program": Way("orchestrator.frameworks.torch_convert:to_exported_program", ("torch",)),
        }
    ),
    precisions=MappingProxyType(
        {
            "fp32": _AS_CONVERTED,
            "bf16": Way(
                "orchestrator.frameworks.torch_precision:exported_program_to_bf16", ("torch",), from_source=True
            ),
            "int8": _NO_TORCH_INT8,
        }
    ),
)

FORMATS: Mapping[str, Format] = MappingProxyType({f.name: f for f in (_ONNX, _TORCHSCRIPT, _EXPORTED_PROGRAM)})
"""Every format by name, in the order in which candidates are tried."""


def variant_name(format_name: str, precision: str) -> str:
    """The name of a variant, such as `onnx-int8`."""
    return f"{format_name}-{precision}"
