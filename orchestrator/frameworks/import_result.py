"""Writes what every import step leaves, whatever the framework."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.samples import LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.edge_inputs import EdgeCase
    from orchestrator.frameworks.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["Answered", "write_import"]


@dataclass(frozen=True, slots=True)
class Answered:
    """How the source model answers.

    Attributes:
        outputs: on the samples, by name, with the samples' row axis.
        edges: every edge case with its outputs by name, whole calls.
    """

    outputs: Mapping[str, Array]
    edges: Sequence[tuple[EdgeCase, Mapping[str, Array]]]


def write_import(
    folder: Path, signature: Signature, samples: Samples, answered: Answered, facts: Mapping[str, Any]
) -> None:
    """Write `signature.json`, `samples.npz`, `baseline.npz`, `edge/` and `facts.json`, the same bytes each time."""
    _json(folder / "signature.json", signature.as_json())
    labels = {} if samples.labels is None else {LABELS: samples.labels}
    np.savez(folder / "samples.npz", allow_pickle=False, **dict(samples.inputs), **labels)
    np.savez(folder / "baseline.npz", allow_pickle=False, **dict(answered.outputs))
    (folder / "edge").mkdir()
    for number, (case, outputs) in enumerate(answered.edges):
        np.savez(folder / "edge" / f"{number}.inputs.npz", allow_pickle=False, **dict(case.inputs))
        np.savez(folder / "edge" / f"{number}.outputs.npz", allow_pickle=False, **dict(outputs))
    cases = [{"name": case.name, "file": str(number)} for number, (case, _) in enumerate(answered.edges)]
    _json(folder / "edge" / "cases.json", cases)
    _json(folder / "facts.json", facts)


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
