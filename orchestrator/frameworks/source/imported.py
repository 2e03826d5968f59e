"""Reads what the import step left, which every conversion starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.artifacts.imported import SAMPLES_FILE, Imported
from orchestrator.frameworks.source.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.signature import Signature

__all__ = ["read_import"]


def read_import(folder: Path) -> tuple[Signature, Samples]:
    """The signature with its outputs resolved, and the samples without their labels.

    Args:
        folder: the input `import` of a step.
    """
    imported = Imported.read(folder)
    with np.load(folder / SAMPLES_FILE, allow_pickle=False) as file:
        inputs = {tensor.name: file[tensor.name] for tensor in imported.signature.inputs}
    return imported.signature, Samples(inputs, None, real=imported.samples == "real")
