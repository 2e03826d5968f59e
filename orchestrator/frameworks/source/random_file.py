"""Writes made-up inputs as a file of samples, marked so that nobody takes them for real ones."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.source.import_result import write_npz
from orchestrator.frameworks.source.samples import random_samples
from orchestrator.spec.random_mark import RANDOM
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Samples
    from orchestrator.steps import StepContext

__all__ = ["write", "write_texts"]


def write(context: StepContext) -> dict[str, Any]:
    """Leave `samples.npz`. Params: `signature`, without outputs; `seed`."""
    return _written(context, random_samples(_signature(context), int(context.params["seed"])))


def write_texts(context: StepContext) -> dict[str, Any]:
    """As `write`, with sentences as the tokenizer of a Transformers folder reads them, where the model takes tokens.

    Params: also `source` (its `task`) and `names`: the spec's name of each input → the model's own. Inputs: `weights`.

    Raises:
        StepError: E370-E379, what the folder says of itself cannot be used.
    """
    from orchestrator.frameworks.transformers.folder import read_folder
    from orchestrator.frameworks.transformers.model import architecture
    from orchestrator.frameworks.transformers.samples import made_up
    from orchestrator.frameworks.transformers.tokenizer import load_tokenizer

    task = context.params["source"].get("task", "auto")
    folder = read_folder(context.inputs["weights"], task)
    built = architecture(folder, task)
    vocabulary = int(getattr(built.config, "vocab_size", 0))
    names = context.params["names"]
    tokenizer = load_tokenizer(folder)
    return _written(context, made_up(_signature(context), names, tokenizer, vocabulary, int(context.params["seed"])))


def _signature(context: StepContext) -> Signature:
    return Signature.from_json(context.params["signature"])


def _written(context: StepContext, samples: Samples) -> dict[str, Any]:
    file = context.output / "samples.npz"
    write_npz(file, samples.inputs)
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = RANDOM
    return {"rows": samples.rows, "notes": list(samples.notes)}
