"""Source kinds: how each is read and checked, what runs it as given, and which packages that needs. One row for each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "SourceKind"]


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source model. Functions are named by string: they run in workers, and planning imports no framework.

    Attributes:
        check: the import step's function.
        baseline: opens the model as given, in its own framework.
        tools: packages whose versions the check depends on.
        inspect: reads tensors and files from the model without running it; None where the spec must say them.
    """

    check: str
    baseline: str
    tools: tuple[str, ...]
    inspect: str | None = None


def _source(module: str, *tools: str, inspect: bool = True) -> SourceKind:
    where = f"orchestrator.frameworks.{module}"
    return SourceKind(
        check=f"{where}:check",
        baseline=f"{where}:open_baseline",
        tools=(*tools, "numpy"),
        inspect=f"{where}:inspect" if inspect else None,
    )


SOURCES: dict[str, SourceKind] = {
    "pytorch": _source("torch_source", "torch", "safetensors", inspect=False),
    "torchscript": _source("torch_source", "torch", inspect=False),
    "exported-program": _source("torch_source", "torch", inspect=False),
    "keras": _source("keras_source", "tensorflow", "keras"),
    "saved-model": _source("saved_model_source", "tensorflow"),
    "onnx": _source("onnx_source", "onnx", "onnxruntime"),
    "tflite": _source("tflite_source", "ai-edge-litert"),
    "transformers": _source("transformers_source", "torch", "transformers", "safetensors"),
}
