"""The document that `import` leaves: the resolved signature, how the model was asked, and where its answers lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.spec.signature import Signature
from orchestrator.spec.strict import Strict

__all__ = ["BASELINE_FILE", "SAMPLES_FILE", "EdgeCase", "Imported", "RefusedCase", "SamplesKind"]

SamplesKind = Literal["real", "random"]
"""Whether a person gave the samples; random ones prove less."""

SAMPLES_FILE = "samples.npz"
"""The inputs by name, rows in front; and `labels` where they are known."""

BASELINE_FILE = "baseline.npz"
"""The model's outputs on the samples, by name, rows in front."""


class EdgeCase(Strict):
    """A whole call at the edge of the signature, which the model answers.

    Attributes:
        finite: whether all its outputs are finite.
    """

    name: str
    number: int
    finite: bool

    def inputs_file(self, folder: Path) -> Path:
        """The inputs by name, an npz file below the folder that the import step left."""
        return folder / "edge" / f"{self.number}.inputs.npz"

    def outputs_file(self, folder: Path) -> Path:
        """The model's outputs by name, an npz file as well."""
        return folder / "edge" / f"{self.number}.outputs.npz"


class RefusedCase(Strict):
    """A call with edge values that the model refuses, which is its right; it is compared with nothing."""

    name: str
    reason: str


class Imported(Document):
    """What every step that follows takes for granted about the model.

    Attributes:
        signature: with the shapes and dtypes of the outputs resolved.
        samples: whether a person gave them.
        rows: how many samples there are.
        labelled: whether it is known what the model should say for each.
        parameters: how many numbers the model has learnt.
        framework: package → version that ran it.
        notes: what a person should know of the model or the samples, a sentence each.
        infinite_outputs: names of outputs that are infinite for some sample.
    """

    NAME: ClassVar[str] = "imported"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "imported.json"

    signature: Signature
    samples: SamplesKind
    rows: int
    labelled: bool
    parameters: int
    framework: Mapping[str, str]
    notes: tuple[str, ...]
    infinite_outputs: tuple[str, ...]
    edge_cases: tuple[EdgeCase, ...]
    edge_cases_left_out: tuple[RefusedCase, ...]
