"""Writes what every import step leaves, whatever the framework."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.source.samples import LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.frameworks.source.edge_inputs import EdgeCase
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["Answered", "write_import", "write_npz"]


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
    write_npz(folder / "samples.npz", {**samples.inputs, **labels})
    write_npz(folder / "baseline.npz", answered.outputs)
    (folder / "edge").mkdir()
    for number, (case, outputs) in enumerate(answered.edges):
        write_npz(folder / "edge" / f"{number}.inputs.npz", case.inputs)
        write_npz(folder / "edge" / f"{number}.outputs.npz", outputs)
    cases = [{"name": case.name, "file": str(number)} for number, (case, _) in enumerate(answered.edges)]
    _json(folder / "edge" / "cases.json", cases)
    _json(folder / "facts.json", facts)


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, the same bytes each time."""
    # numpy.savez takes the names as keyword arguments, beside its own: a tensor may be called `file`.
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Without a time of its own the entry carries that of 1980, and the same arrays give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
