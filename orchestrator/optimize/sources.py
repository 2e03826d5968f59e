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
        check_revision: rises when what the check does, or refuses, changes; results of an older one are then made anew.
        inspect: reads tensors and files from the model without running it; None where the spec must say them.
        inspect_revision: as `check_revision`.
    """

    check: str
    baseline: str
    tools: tuple[str, ...]
    check_revision: int
    inspect: str | None = None
    inspect_revision: int = 1


def _source(module: str, *tools: str, check: int, inspect: int | None = None) -> SourceKind:
    """A row by its module and the revisions of its functions; without `inspect` where the spec must say the tensors."""
    where = f"orchestrator.frameworks.{module}"
    return SourceKind(
        check=f"{where}:check",
        baseline=f"{where}:open_baseline",
        tools=(*tools, "numpy"),
        check_revision=check,
        inspect=None if inspect is None else f"{where}:inspect",
        inspect_revision=inspect or 1,
    )


SOURCES: dict[str, SourceKind] = {
    "pytorch": _source("torch_source", "torch", "safetensors", check=2),
    "torchscript": _source("torch_source", "torch", check=2),
    "exported-program": _source("torch_source", "torch", check=2),
    "keras": _source("keras_source", "tensorflow", "keras", check=2, inspect=2),
    "saved-model": _source("saved_model_source", "tensorflow", check=2, inspect=2),
    "onnx": _source("onnx_source", "onnx", "onnxruntime", check=2, inspect=2),
    "tflite": _source("tflite_source", "ai-edge-litert", check=2, inspect=2),
    "transformers": _source("transformers_source", "torch", "transformers", "safetensors", check=2, inspect=2),
}
