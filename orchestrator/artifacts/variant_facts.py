"""The document that every step leaves beside the model file that it made: how it was made, and how far it is proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from orchestrator.artifacts.document import Document
from orchestrator.artifacts.imported import SamplesKind
from orchestrator.spec.strict import Strict

__all__ = ["Calibration", "OwnNames", "VariantFacts", "variant_facts"]


class OwnNames(Strict):
    """Name in the spec → name in the model file, of tensors that the file calls otherwise."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class Calibration(Strict):
    """The samples that the ranges of int8 activations were found with, every second one of all.

    Attributes:
        rows: how many they are.
        unseen: how many samples the calibration has not seen, which prove it.
        method: how ranges follow from them.
    """

    rows: int
    unseen: int
    samples: SamplesKind
    method: Literal["min-max"]


class VariantFacts(Document):
    """What is known of a variant. What does not apply to it is None.

    Attributes:
        format: of the model file.
        precision: of its arithmetic.
        exporter: what wrote it, such as `torch.export`; `given` where it is the user's file.
        checked: names of the calls on which it was compared with its source.
        opset: of ONNX.
        nodes: of the ONNX graph.
        operators: of the LiteRT file.
        names: of a LiteRT file that keeps its own names.
        weights: how the SavedModel holds them.
        method: of quantization.
        reduce_range: whether int8 weights use 7 bits, for CPUs without VNNI.
        smoothed: how many activations were smoothed before quantization.
        calibration: of quantization.
        notes: what a reader of the decision must know, a sentence each.
    """

    NAME: ClassVar[str] = "variant_facts"
    VERSION: ClassVar[int] = 1
    FILE: ClassVar[str] = "facts.json"

    format: str
    precision: str
    exporter: str | None
    checked: tuple[str, ...]
    opset: int | None
    nodes: int | None
    operators: tuple[str, ...] | None
    names: OwnNames | None
    weights: Literal["constants", "variables"] | None
    method: Literal["static", "dynamic"] | None
    reduce_range: bool | None
    smoothed: int | None
    calibration: Calibration | None
    notes: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """What applies to the variant, for people."""
        return self.model_dump(mode="json", exclude_none=True)


def variant_facts(
    *,
    format: str,  # noqa: A002 - the field's name
    precision: str = "fp32",
    exporter: str | None = None,
    checked: tuple[str, ...] = (),
    opset: int | None = None,
    nodes: int | None = None,
    operators: tuple[str, ...] | None = None,
    names: OwnNames | None = None,
    weights: Literal["constants", "variables"] | None = None,
    method: Literal["static", "dynamic"] | None = None,
    reduce_range: bool | None = None,
    smoothed: int | None = None,
    calibration: Calibration | None = None,
    notes: tuple[str, ...] = (),
) -> VariantFacts:
    """Facts of which only those are named that apply."""
    return VariantFacts(
        format=format,
        precision=precision,
        exporter=exporter,
        checked=checked,
        opset=opset,
        nodes=nodes,
        operators=operators,
        names=names,
        weights=weights,
        method=method,
        reduce_range=reduce_range,
        smoothed=smoothed,
        calibration=calibration,
        notes=notes,
    )
