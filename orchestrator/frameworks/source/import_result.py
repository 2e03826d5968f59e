"""Writes what every import step leaves, whatever the framework."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.artifacts.imported import BASELINE_FILE, SAMPLES_FILE
from orchestrator.frameworks.source.samples import LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestrator.artifacts.imported import Imported
    from orchestrator.frameworks.source.samples import Array, Samples

__all__ = ["Answered", "write_import", "write_npz"]


@dataclass(frozen=True, slots=True)
class Answered:
    """How the source model answers.

    Attributes:
        outputs: on the samples, by name, with the samples' row axis.
        edges: inputs and outputs of every edge case by name, whole calls, in the order of `Imported.edge_cases`.
    """

    outputs: Mapping[str, Array]
    edges: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]]


def write_import(folder: Path, imported: Imported, samples: Samples, answered: Answered) -> None:
    """Write the document, the samples, the baseline's answers and the edge cases, the same bytes each time."""
    imported.write(folder)
    labels = {} if samples.labels is None else {LABELS: samples.labels}
    write_npz(folder / SAMPLES_FILE, {**samples.inputs, **labels})
    write_npz(folder / BASELINE_FILE, answered.outputs)
    (folder / "edge").mkdir()
    for case, (inputs, outputs) in zip(imported.edge_cases, answered.edges, strict=True):
        write_npz(case.inputs_file(folder), inputs)
        write_npz(case.outputs_file(folder), outputs)


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, the same bytes each time."""
    # numpy.savez takes the names as keyword arguments, beside its own: a tensor may be called `file`.
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Without a time of its own the entry carries that of 1980, and the same arrays give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
