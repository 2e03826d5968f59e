"""The document beside every converted or optimized model file: how it was made, and how it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.spec.strict import Strict

__all__ = ["Calibration", "FloatLayer", "FrozenLine", "OwnNames", "VariantFacts", "variant_facts"]


class OwnNames(Strict):
    """Name in the spec → name in the model file, for tensors whose names differ."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Calibration(Strict):
    """The samples with which the ranges of int8 activations were calibrated, every second one.

    Attributes:
        rows: number of calibration samples.
        unseen: number of samples that were not used for calibration, and can verify it.
        method: how ranges are computed from them.
    """

    rows: int
    unseen: int
    samples: SamplesKind
    method: Literal["min-max", "percentile", "entropy"]


class FloatLayer(Strict):
    """A layer that stayed in floating point, so that the variant holds its gates.

    Attributes:
        name: of the node in the graph.
        operator: such as `MatMul`.
        error: what quantizing this layer alone changes an output by, as a fraction of its magnitude.
    """

    name: str
    operator: str
    error: float


class FrozenLine(Strict):
    """A line of the model's code whose outcome a trace has as a constant: what the samples led to.

    Attributes:
        file: relative to the spec's folder, or to the folder that it was imported from.
        code: the line.
        what: whether it decides which way the code goes, or makes a number, a list or an array of a tensor.
    """

    file: str
    line: int
    code: str
    what: Literal["branch", "value"]

    @property
    def place(self) -> str:
        """As the spec names it: `net.py:9`."""
        return f"{self.file}:{self.line}"


class VariantFacts(Document):
    """How a variant was made. Facts that do not apply to it are None.

    Attributes:
        format: of the model file.
        precision: of its arithmetic.
        exporter: the tool that wrote it, such as `torch.export`; `given` for the user's file.
        checked: names of the calls on which it was compared with its source.
        frozen: lines of the model's code that it has as constants, accepted in the spec.
        opset: of ONNX.
        nodes: of the ONNX graph.
        operators: of the LiteRT file or the main ONNX graph, each once.
        names: of a LiteRT file that keeps its own names.
        weights: how the SavedModel stores them.
        method: of quantization; `weights`: weights alone, and the arithmetic stays in floating point.
        reduce_range: whether int8 weights use 7 bits, for CPUs without VNNI.
        smoothed: number of activations that were smoothed before quantization.
        float_layers: that were left out of quantization, the most sensitive first; None where none were looked for.
        calibration: of quantization.
        notes: what a reader of the decision should know, a sentence each.
    """

    NAME: ClassVar[str] = "variant_facts"
    VERSION: ClassVar[int] = 3
    FILE: ClassVar[str] = "facts.json"

    format: str
    precision: str
    exporter: str | None
    checked: tuple[str, ...]
    frozen: tuple[FrozenLine, ...]
    opset: int | None
    nodes: int | None
    operators: tuple[str, ...] | None
    names: OwnNames | None
    weights: Literal["constants", "variables"] | None
    method: Literal["static", "dynamic", "weights"] | None
    reduce_range: bool | None
    smoothed: int | None
    float_layers: tuple[FloatLayer, ...] | None
    calibration: Calibration | None
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """The facts that apply to the variant, for people."""
        return self.model_dump(mode="json", exclude_none=True, exclude=None if self.frozen else {"frozen"})


def variant_facts(
    *,
    format: str,  # noqa: A002 - the field's name
    precision: str = "fp32",
    exporter: str | None = None,
    checked: tuple[str, ...] = (),
    frozen: tuple[FrozenLine, ...] = (),
    opset: int | None = None,
    nodes: int | None = None,
    operators: tuple[str, ...] | None = None,
    names: OwnNames | None = None,
    weights: Literal["constants", "variables"] | None = None,
    method: Literal["static", "dynamic", "weights"] | None = None,
    reduce_range: bool | None = None,
    smoothed: int | None = None,
    float_layers: tuple[FloatLayer, ...] | None = None,
    calibration: Calibration | None = None,
    notes: tuple[str, ...] = (),
) -> VariantFacts:
    """The facts of a variant; only those that apply are passed."""
    return VariantFacts(
        format=format,
        precision=precision,
        exporter=exporter,
        checked=checked,
        frozen=frozen,
        opset=opset,
        nodes=nodes,
        operators=operators,
        names=names,
        weights=weights,
        method=method,
        reduce_range=reduce_range,
        smoothed=smoothed,
        float_layers=float_layers,
        calibration=calibration,
        notes=notes,
    )
