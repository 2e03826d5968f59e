"""Selects the samples for calibrating int8 activations: at most half of them, so that the others can verify the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from orchestrator.artifacts.variant_facts import Calibration
from orchestrator.frameworks.source.import_step import read_import

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts.imported import SamplesKind
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.pass_options import RangeRule

__all__ = ["CalibrationRows", "choose"]

LARGEST = 128
"""The maximum number of rows. Ranges settle within about a hundred; more only take longer."""

FEWEST_UNSEEN = 16
"""With fewer rows left that calibration has not used, verification proves little, and a note says so."""

BATCH = 16


@dataclass(frozen=True, slots=True)
class CalibrationRows:
    """The rows for calibration.

    Attributes:
        rows: the number of calibration rows.
        unseen: the number of other samples.
        samples: whether they are real.
        notes: a warning if few rows are left for verification.
    """

    rows: int
    unseen: int
    samples: SamplesKind
    notes: tuple[str, ...]
    _signature: Signature
    _inputs: Mapping[str, Array]
    _rows: Array

    def facts(self, percentile: float = 100.0, rule: RangeRule = "percentile") -> Calibration:
        """For the variant's facts: with these rows, and ranges that cover so many per cent of the values or are found by `rule`."""
        covering: Literal["min-max", "percentile"] = "min-max" if percentile == 100.0 else "percentile"
        method: Literal["min-max", "percentile", "entropy"] = "entropy" if rule == "entropy" else covering
        return Calibration(rows=self.rows, unseen=self.unseen, samples=self.samples, method=method)

    def calls(self, *, equal: bool = False) -> Iterator[dict[str, Array]]:
        """The inputs of one call after the other, by name.

        Args:
            equal: whether all calls need the same number of rows.
        """
        if self._signature.batch is None:
            for row in self._rows:
                yield {name: np.asarray(array[row]) for name, array in self._inputs.items()}
            return
        low, _ = self._signature.dims[self._signature.batch]
        size = self._signature.fitting(self._signature.batch, BATCH)
        # The last call is filled up with the first rows, so that it is not smaller than the model allows.
        for start in range(0, len(self._rows), size):
            chosen = self._rows[start : start + size]
            if low > 1 or equal:
                chosen = self._rows.take(np.arange(start, start + size), mode="wrap")
            yield {name: array[chosen] for name, array in self._inputs.items()}


def choose(imported: Path, seed: int) -> CalibrationRows:
    """Every second row of the samples, at most `LARGEST`.

    Args:
        imported: the output of the import step.
        seed: selects rows if there are more.
    """
    signature, samples = read_import(imported)
    rows = np.arange(0, samples.rows, 2)
    if len(rows) > LARGEST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, LARGEST, replace=False))
    unseen = samples.rows - len(rows)
    kind: SamplesKind = "real" if samples.real else "random"
    few = f"int8 was calibrated on {len(rows)} of {samples.rows} samples and verified on only {unseen} others"
    notes = (few,) if unseen < FEWEST_UNSEEN else ()
    return CalibrationRows(len(rows), unseen, kind, notes, signature, samples.inputs, rows)
