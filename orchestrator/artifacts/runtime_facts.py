"""The runtime of a model: its name, packages and threads. A plain dataclass, because measured processes import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RuntimeFacts"]


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """The runtime that ran a model.

    Attributes:
        runtime: its name, such as `onnxruntime`.
        versions: package → version.
        threads: for the operators of one call.
        providers: ONNX Runtime's execution providers in their order of preference; None for other runtimes.
        device: where it computes, such as `cuda:0`; None for the CPU, or if the runtime does not say.
    """

    runtime: str
    versions: Mapping[str, str]
    threads: int
    providers: tuple[str, ...] | None = None
    device: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for the pipe of a measured process."""
        return asdict(self)

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> RuntimeFacts:
        """The value that `as_json` wrote."""
        providers = document["providers"]
        return RuntimeFacts(**{**document, "providers": None if providers is None else tuple(providers)})
