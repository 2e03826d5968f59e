"""The source kinds, one row each: the functions that read, check and run it, and the packages that these need."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.source_models import SAY_NOTHING

__all__ = ["SOURCES", "SourceKind"]


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source model. Functions are named by string, because they run in workers, and planning imports no framework.

    Attributes:
        check: the import step's function.
        baseline: opens the model as given, in its own framework.
        tools: packages whose versions the check depends on.
        check_revision: increased when the check's results or refusals change, so that older results are computed again.
        inspect: reads tensors and files from the model without running it; None if the spec must declare them.
        inspect_revision: as `check_revision`.
    """

    check: str
    baseline: str
    tools: tuple[str, ...]
    check_revision: int
    inspect: str | None = None
    inspect_revision: int = 1


def _row(kind: str, module: str, *tools: str, check: int, inspect: int = 1) -> tuple[str, SourceKind]:
    """The row of a source kind, from its module and the revisions of its functions."""
    where = f"orchestrator.frameworks.{module}"
    return kind, SourceKind(
        check=f"{where}:check",
        baseline=f"{where}:open_baseline",
        tools=(*tools, "numpy"),
        check_revision=check,
        inspect=None if kind in SAY_NOTHING else f"{where}:inspect",
        inspect_revision=inspect,
    )


SOURCES: dict[str, SourceKind] = dict(
    (
        _row("pytorch", "pytorch.source", "torch", "safetensors", check=6),
        _row("torchscript", "pytorch.source", "torch", check=6),
        _row("exported-program", "pytorch.source", "torch", check=6),
        _row("keras", "tensorflow.keras_source", "tensorflow", "keras", check=6, inspect=4),
        _row("saved-model", "tensorflow.saved_model_source", "tensorflow", check=6, inspect=4),
        _row("onnx", "onnx.source", "onnx", "onnxruntime", check=6, inspect=4),
        _row("tflite", "litert.source", "ai-edge-litert", check=6, inspect=4),
        _row("transformers", "transformers.source", "torch", "transformers", "safetensors", check=6, inspect=4),
    )
)
