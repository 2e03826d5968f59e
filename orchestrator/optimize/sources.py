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
    """

    check: str
    tools: tuple[str, ...]


_TORCH_CHECK = "orchestrator.frameworks.torch_source:check"

SOURCES: dict[str, SourceKind] = {
    "pytorch": SourceKind(_TORCH_CHECK, ("torch", "safetensors", "numpy")),
    "torchscript": SourceKind(_TORCH_CHECK, ("torch", "numpy")),
    "exported-program": SourceKind(_TORCH_CHECK, ("torch", "numpy")),
}
