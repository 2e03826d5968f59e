"""Generates samples for a Transformers text model: sentences, tokenized by the folder's tokenizer."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.source.samples import Samples, random_samples
from orchestrator.frameworks.transformers.interface import IDS, TYPES
from orchestrator.frameworks.transformers.library import transformers
from orchestrator.frameworks.transformers.task import MASK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.samples import Array
    from orchestrator.frameworks.transformers.folder import ModelFolder
    from orchestrator.spec.signature import Signature

__all__ = ["load_tokenizer", "text_samples"]


def load_tokenizer(folder: ModelFolder) -> Any:
    """The tokenizer; None if there is none that can be loaded without custom code."""
    if not folder.tokenizer or "auto_map" in folder.tokenizer:
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder.path), local_files_only=True, trust_remote_code=False
        )
    # Untrusted files, which each class reads differently, may raise anything; the model does not need the tokenizer.
    except Exception:  # noqa: BLE001 - logged, and a note mentions the consequence
        traceback.print_exc(file=sys.stderr)
        return None


_SENTENCES = (
    "The train to the coast leaves at nine.",
    "How do I reset my password?",
    "She baked a cake for the party, and nobody ate it.",
    "Shares fell sharply after the bank raised its rates for the third time this year.",
    "It will rain tomorrow.",
    "No.",
    "The committee met for several hours and adjourned without having agreed on the budget of the new library.",
    "Please send the invoice by Friday!",
)


def text_samples(
    signature: Signature, own_names: Mapping[str, str], tokenizer: Any, vocabulary: int, seed: int
) -> Samples:
    """Rows that match the signature; they count as random, because they are not the user's texts.

    Args:
        signature: as declared.
        own_names: the spec's name of each input → the model's own.
        tokenizer: the model's own; None if there is none.
        vocabulary: the number of tokens.
        seed: for random choices.
    """
    random = random_samples(signature, seed)
    free = [tensor.name for tensor in signature.inputs if tensor.allowed is None]
    texts = {name: own_names[name] for name in free if own_names[name] in {IDS, MASK, TYPES}}
    if not texts:
        return random
    ids_name = next((name for name, own in texts.items() if own == IDS), next(iter(texts)))
    rows, length = random.inputs[ids_name].reshape(random.rows, -1).shape
    made = _tokenized(tokenizer, rows, length) if tokenizer is not None else None
    note = "samples: none are given, so a few sentences are made up and tokenized"
    if made is None:
        made = _numbered(vocabulary, rows, length, seed)
        note = "samples: none are given and the folder has no tokenizer that loads, so the token ids are random"
    inputs = dict(random.inputs)
    for name, own in texts.items():
        # If the model has no batch dimension, the shape may differ from [rows, length].
        inputs[name] = made[own].astype(inputs[name].dtype).reshape(inputs[name].shape)
    return replace(random, inputs=inputs, notes=(note,))


def _tokenized(tokenizer: Any, rows: int, length: int) -> dict[str, Array] | None:
    try:
        found = tokenizer(_texts(rows), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    # A tokenizer may lack a padding token, and may raise anything; random ids do not need it.
    except Exception:  # noqa: BLE001 - logged, and a note mentions the consequence
        traceback.print_exc(file=sys.stderr)
        return None
    ids = np.asarray(found[IDS])
    return {
        IDS: ids,
        MASK: np.asarray(found.get(MASK, np.ones_like(ids))),
        TYPES: np.asarray(found.get(TYPES, 0 * ids)),
    }


def _texts(rows: int) -> list[str]:
    """Each sentence alone, then each followed by another one, which differs in every round."""
    count = len(_SENTENCES)
    alone = list(_SENTENCES[:rows])
    return alone + [
        f"{_SENTENCES[row % count]} {_SENTENCES[(row + row // count) % count]}" for row in range(count, rows)
    ]


def _numbered(vocabulary: int, rows: int, length: int, seed: int) -> dict[str, Array]:
    """Random token ids other than 0, with up to half of each row padded at the end."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, max(vocabulary, 2), (rows, length))
    used = random.integers((length + 1) // 2, length + 1, (rows, 1))
    mask = (np.arange(length) < used).astype(np.int64)
    return {IDS: ids, MASK: mask, TYPES: np.zeros_like(ids)}
