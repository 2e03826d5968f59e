"""LiteRT models for devices: a folder with the model and its signature. There is no server; the device runs it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.backends.backend import Backend, InProcess
from orchestrator.backends.folder import copy_file, json_text, model_file, write_file

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.backends.backend import ServingSettings

__all__ = ["LITERT", "LiteRt"]


class LiteRt(Backend):
    """See `orchestrator.backends.backend.Backend`. It supports every signature, including texts."""

    name = "litert"
    runtimes = MappingProxyType(
        {"tflite": InProcess("orchestrator.frameworks.litert.runtime:open_tflite", ("ai-edge-litert",))}
    )
    options = frozenset({"threads"})
    tools = ("ai-edge-litert",)

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str:  # noqa: ARG002
        """Always: it only runs on CPUs."""
        return "LiteRT only runs on CPUs here"

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Write `model.tflite`, and `model.json` with its signature, its digest and the measured package versions."""
        sha256 = copy_file(model_file(settings.format, variant), folder / "model.tflite")
        document = {
            "name": settings.name,
            "file": "model.tflite",
            "sha256": sha256,
            "variant": settings.variant,
            "precision": settings.precision,
            "signature": settings.signature.as_json(),
            "names": _own_names(variant),
            "threads": settings.threads,
            "tools": dict(settings.tools),
            "decision_digest": settings.decision_digest,
        }
        write_file(folder / "model.json", json_text(document))


def _own_names(variant: Path) -> dict[str, dict[str, str]]:
    """The names of tensors in the file if they differ from the spec's: the user's own LiteRT file is not changed."""
    names = VariantFacts.read(variant).names
    if names is None:
        return {}
    return {
        role: {name: own for name, own in of.items() if name != own}
        for role, of in (("inputs", names.inputs), ("outputs", names.outputs))
        if of
    }


LITERT = LiteRt()
