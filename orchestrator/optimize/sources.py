"""Source kinds: how each is checked and which packages it needs. One row for each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SOURCES", "SourceKind"]


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source model.

    Attributes:
        check: the import step's function.
        tools: packages whose versions the check depends on.
        uses_code: whether the user's own Python code builds the model.
    """

    check: str
    tools: tuple[str, ...]
    uses_code: bool


_TORCH_CHECK = "orchestrator.frameworks.torch_source:check"

SOURCES: dict[str, SourceKind] = {
    "pytorch": SourceKind(_TORCH_CHECK, ("torch", "safetensors", "numpy"), uses_code=True),
    "torchscript": SourceKind(_TORCH_CHECK, ("torch", "numpy"), uses_code=False),
    "exported-program": SourceKind(_TORCH_CHECK, ("torch", "numpy"), uses_code=False),
}
