"""The source kinds, one row each: the functions that read, check and run it, and the packages that these need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.spec.source_models import SAY_NOTHING

__all__ = ["SOURCES", "SourceKind"]


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source model. Functions are named by string, because they run in workers, and planning imports no framework.

    Attributes:
        check: the import step's function.
        baseline: opens the model as given, in its own framework.
        inspect: reads tensors and files from the model without running it, as far as the file has them.
        tools: packages whose versions the check depends on.
        check_revision: increased when the check's results or refusals change, so that older results are computed again.
        inspect_revision: as `check_revision`.
        probe: finds out by calling the model what sizes and integers it takes, for `mlo init`; empty for kinds of which nothing is
            known that it could be called with.
        describes: whether the model describes its tensors by name, so that planning reads them. Otherwise the spec declares
            them, and only `mlo init` reads the model.
        further_files: whether a model may have files beside its own, which `inspect` lists.
        text_samples: whether made-up samples are sentences, for which the model's tokenizer is needed.
        required: keys that a spec must have besides `kind` and `weights`, with values for `mlo init`'s reading of the model.
        stated: keys that a first spec has with their defaults, because the user may want another value, and why.
        options: keys that `mlo init` takes as options.
    """

    check: str
    baseline: str
    inspect: str
    tools: tuple[str, ...]
    check_revision: int
    inspect_revision: int
    describes: bool
    probe: str = ""
    further_files: bool = False
    text_samples: bool = False
    required: Mapping[str, str] = field(default_factory=dict)
    stated: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    options: frozenset[str] = frozenset()


_PROBED = frozenset({"exported-program", "keras", "onnx", "saved-model", "tflite"})


def _row(kind: str, module: str, *tools: str, check: int, inspect: int, **more: Any) -> tuple[str, SourceKind]:
    """The row of a source kind, from its module, the revisions of its functions and further attributes."""
    where = f"orchestrator.frameworks.{module}"
    return kind, SourceKind(
        check=f"{where}:check",
        baseline=f"{where}:open_baseline",
        inspect=f"{where}:inspect",
        tools=(*tools, "numpy"),
        check_revision=check,
        inspect_revision=inspect,
        describes=kind not in SAY_NOTHING,
        probe=f"{where}:probe" if kind in _PROBED else "",
        **more,
    )


_FACTORY = {"factory": "model:Model"}
_TASK = {"task": ("auto", "read from config.json; another task has other inputs and outputs")}
_TRANSFORMERS_TOOLS = ("torch", "transformers", "safetensors")

SOURCES: dict[str, SourceKind] = dict(
    (
        _row("pytorch", "pytorch.source", "torch", "safetensors", check=10, inspect=6, required=_FACTORY),
        _row("torchscript", "pytorch.source", "torch", check=9, inspect=5),
        _row("exported-program", "pytorch.source", "torch", check=11, inspect=6),
        _row("keras", "tensorflow.keras_source", "tensorflow", "keras", check=9, inspect=5),
        _row(
            "saved-model",
            "tensorflow.saved_model_source",
            "tensorflow",
            check=10,
            inspect=6,
            options=frozenset({"signature"}),
        ),
        _row("onnx", "onnx.source", "onnx", "onnxruntime", check=10, inspect=7, further_files=True),
        _row("tflite", "litert.source", "ai-edge-litert", check=9, inspect=5),
        _row(
            "transformers",
            "transformers.source",
            *_TRANSFORMERS_TOOLS,
            check=10,
            inspect=6,
            text_samples=True,
            stated=_TASK,
        ),
    )
)
