"""Reduces raw times to quantiles with their intervals, so that a report stays small however long was measured."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.measure.statistics import interval_ranks
from orchestrator.report.evidence import Evidence
from orchestrator.report.model import Distribution, PlaceKind, Row

__all__ = ["LEVELS", "MOST", "distributions"]

MOST = 60
"""Distributions of each kind that are kept: those of the first rows, and that of the original model."""

LEVELS = (
    *(0.01, 0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985),
    *(0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 0.9999),
)
"""Denser where charts of tails are wide. Levels that less than one sample exceeds are left out."""

BASELINE = "baseline"
"""The original model's name in the raw times of the runtime benchmark."""


def distributions(evidence: Evidence, rows: tuple[Row, ...]) -> Iterator[Distribution]:
    """Of answers over the wire on a schedule, and of calls with the smallest batch in the runtimes."""
    longest = {
        each.candidate: each.server.on_schedule.max
        for each in evidence.decision.candidates
        if each.server is not None and each.server.on_schedule is not None
    }
    for row, seconds in _times(evidence.server_times, {name: f"{name}.open.seconds" for name in longest}, rows):
        # A refused request has no end; as in the benchmark's own percentiles, it counts as the longest that one waits.
        yield _distribution(row, "server", np.minimum(seconds, longest[rows[row].name]))
    smallest = {
        row.name: f"{BASELINE if row.fate == 'original model' else row.name}.b{row.batches[0].rows}.seconds"
        for row in rows
        if row.batches
    }
    for row, seconds in _times(evidence.runtime_times, smallest, rows):
        yield _distribution(row, "runtime", seconds)


def _times(
    file: Path | None, keys: Mapping[str, str], rows: tuple[Row, ...]
) -> list[tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
    """The times of the rows that are kept.

    Raises:
        StoreFailed: E714, the file is damaged.
    """
    if file is None:
        return []
    found: list[tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]]]] = []
    try:
        # Opened here, since numpy leaves the file open when it is no archive.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            left = MOST
            for number, row in enumerate(rows):
                if not left and row.fate != "original model":
                    continue
                if (key := keys.get(row.name)) is not None and key in arrays and len(arrays[key]):
                    left = max(0, left - 1)
                    found.append((number, arrays[key]))
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise StoreFailed(
            Diagnostic(
                "E714",
                f"cannot read the times in {file}",
                cause=str(error),
                remedy="run `mlo apply SPEC --replace STEP` with the step that wrote it; `mlo plan SPEC` lists the steps",
            )
        ) from error
    return found


def _distribution(row: int, kind: PlaceKind, seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Distribution:
    ordered = np.sort(seconds).tolist()
    size = len(ordered)
    levels = [level for level in LEVELS if level == 0.5 or round(size * (1 - level), 6) >= 1]
    times, low, high = [], [], []
    for level in levels:
        above, below = interval_ranks(size, level)
        times.append(ordered[min(size, math.ceil(round(level * size, 6))) - 1])
        low.append(ordered[size - below - 1] if below < size else None)
        high.append(ordered[size - above] if above else None)
    return Distribution(row, kind, size, tuple(levels), tuple(times), tuple(low), tuple(high))
