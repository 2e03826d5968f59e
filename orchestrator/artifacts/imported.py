"""The document of `import`: the resolved signature, the samples, and the baseline's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.spec.signature import Signature
from orchestrator.spec.strict import Strict

__all__ = ["SAMPLES_FILE", "EdgeCase", "Imported", "RefusedCase", "SamplesKind"]

SamplesKind = Literal["real", "random"]
"""Whether the user provided the samples; random ones prove less."""

SAMPLES_FILE = "samples.npz"
"""The inputs by name, with rows as the first axis; and `labels` if they are known."""


class EdgeCase(Strict):
    """A call at the edge of the signature that the model answers.

    Attributes:
        finite: whether all its outputs are finite.
    """

    name: str
    number: int
    finite: bool

    def inputs_file(self, folder: Path) -> Path:
        """The inputs by name, an npz file below the output folder of the import step."""
        return folder / "edge" / f"{self.number}.inputs.npz"

    def outputs_file(self, folder: Path) -> Path:
        """The model's outputs by name, also an npz file."""
        return folder / "edge" / f"{self.number}.outputs.npz"


class RefusedCase(Strict):
    """A call with edge values that the model refuses, which is allowed; it is not compared."""

    name: str
    reason: str


class Imported(Document):
    """The imported model, as all following steps use it.

    Attributes:
        signature: with the shapes and dtypes of the outputs resolved.
        samples: whether the user provided them.
        rows: number of samples.
        classes: names of outputs that hold a score for each of the classes that the samples' labels name; only there does
            the largest value of a row mean something.
        parameters: number of the model's parameters.
        framework: package → version that ran it.
        notes: what the user should know about the model or the samples, a sentence each.
        one_by_one: why requests are answered one by one, a clause; None if they can be batched.
        infinite_outputs: names of outputs that are infinite for some sample.
    """

    NAME: ClassVar[str] = "imported"
    VERSION: ClassVar[int] = 4
    FILE: ClassVar[str] = "imported.json"

    signature: Signature
    samples: SamplesKind
    rows: int
    classes: tuple[str, ...]
    parameters: int
    framework: Mapping[str, str]
    notes: tuple[str, ...]
    one_by_one: str | None
    infinite_outputs: tuple[str, ...]
    edge_cases: tuple[EdgeCase, ...]
    edge_cases_left_out: tuple[RefusedCase, ...]
