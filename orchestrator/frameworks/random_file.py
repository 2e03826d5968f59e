"""Writes random inputs as a file of samples, marked so that nobody takes them for real ones."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.import_result import write_npz
from orchestrator.frameworks.samples import random_samples
from orchestrator.spec.random_mark import RANDOM
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from orchestrator.steps import StepContext

__all__ = ["write"]


def write(context: StepContext) -> dict[str, Any]:
    """Leave `samples.npz`. Params: `signature`, without outputs; `seed`."""
    samples = random_samples(Signature.from_json(context.params["signature"]), int(context.params["seed"]))
    file = context.output / "samples.npz"
    write_npz(file, samples.inputs)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = RANDOM
    return {"rows": samples.rows, "notes": list(samples.notes)}
