"""Reads what the import step left, which every conversion starts from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.samples import Samples
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_import"]


def read_import(folder: Path) -> tuple[Signature, Samples]:
    """The signature with its outputs resolved, and the samples without their labels.

    Args:
        folder: the input `import` of a step.
    """
    signature = Signature.from_json(json.loads((folder / "signature.json").read_text("utf-8")))
    facts = json.loads((folder / "facts.json").read_text("utf-8"))
    with np.load(folder / "samples.npz", allow_pickle=False) as file:
        inputs = {tensor.name: file[tensor.name] for tensor in signature.inputs}
    return signature, Samples(inputs, None, real=facts["samples"] == "real")
