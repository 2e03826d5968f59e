"""Precisions and gates: each gate is a row here and a measure in `verify/parity.py`; each precision has its default limits.

The spec's `verify:`, the rules of platforms, the verdicts and the judgement are made from these tables. Documented in
`docs/verify.md`. Imports nothing of the spec, which is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

__all__ = ["DEFAULT_GATES", "GATES", "PRECISIONS", "Gate", "Precision", "PrecisionGates", "is_floor"]

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True, slots=True)
class Gate:
    """One limit that every output has to meet.

    Attributes:
        name: as in the spec's `verify:`; starts with `min_` if the limit is a minimum, else with `max_`.
        measure: the field of `OutputParity` (`artifacts/verdict.py`) that is compared with the limit.
        description: for the schema of the spec.
        lowest, highest: what the spec may set as the limit; None: any number above.
        per_precision: whether the spec may set one limit for each precision.
        of_samples: whether it is about many rows, so that only all samples together are judged by it.
        of_classes: whether it only applies to outputs that are known to be classes, to integers and texts, and where the spec
            sets it.
    """

    name: str
    measure: str
    description: str
    lowest: float
    highest: float | None = None
    per_precision: bool = True
    of_samples: bool = False
    of_classes: bool = False


def is_floor(gate: str) -> bool:
    """Whether the limit of the gate is a minimum."""
    return gate.startswith("min_")


GATES: Mapping[str, Gate] = MappingProxyType(
    {
        gate.name: gate
        for gate in (
            Gate("max_abs_error", "max_abs_error", "Largest absolute difference of an output.", 0),
            Gate("max_rel_error", "max_rel_error", "Largest relative difference of an output.", 0),
            Gate(
                "min_cosine",
                "cosine",
                "Smallest cosine similarity of an output over all samples, as one vector.",
                -1,
                1,
                of_samples=True,
            ),
            Gate(
                "min_row_cosine", "row_cosine", "Smallest cosine similarity of an output's answer to one sample.", -1, 1
            ),
            Gate(
                "min_top1_agreement",
                "top1_agreement",
                "Smallest fraction of rows whose top-1 class is the same.",
                0,
                1,
                per_precision=False,
                of_samples=True,
                of_classes=True,
            ),
        )
    }
)
"""The gates that a spec can set, by name, in the order in which they are judged."""


@dataclass(frozen=True, slots=True)
class PrecisionGates:
    """The default limits for one precision.

    Attributes:
        max_scaled_error: largest absolute error as a fraction of the output's magnitude; the default of `max_abs_error` is
            computed from it.
        edges_by_value: whether the values of edge inputs are gated, or only their shapes and finiteness.
        noise: of the arithmetic, as a fraction of the output's magnitude; it does not count as an error of a column.
        limits: of the other gates by name; one without a limit is measured, but not gated.
    """

    max_scaled_error: float
    edges_by_value: bool
    noise: float = 0.0
    limits: Mapping[str, float] = field(default_factory=dict)


DEFAULT_GATES: Mapping[str, PrecisionGates] = MappingProxyType(
    {
        # The same arithmetic in another order: deep nets stay below 1e-5 of the magnitude, while a wrong axis, padding,
        # constant or approximation (GELU by tanh) is above 1e-4.
        "fp32": PrecisionGates(
            1e-4, edges_by_value=True, noise=1e-5, limits={"min_cosine": 0.99999, "min_top1_agreement": 0.999}
        ),
        # Eight bits of mantissa: each rounding is off by up to 0.4 %, and a deep net adds some of them up.
        "bf16": PrecisionGates(0.05, edges_by_value=True, limits={"min_cosine": 0.995, "min_top1_agreement": 0.99}),
        # Eleven bits of mantissa: each rounding is off by up to 0.05 %. Weights are cut at 65504; what is computed above it becomes
        # infinite, which the gate of finite values finds.
        "fp16": PrecisionGates(0.01, edges_by_value=True, limits={"min_cosine": 0.999, "min_top1_agreement": 0.99}),
        # Eight bits in total. Inputs beyond the calibrated range are clipped by design, so the values of edge inputs
        # say nothing about real inputs.
        "int8": PrecisionGates(0.2, edges_by_value=False, limits={"min_cosine": 0.99, "min_top1_agreement": 0.98}),
        # Weights have sixteen values for each block and are off by up to a thirtieth of the block's range; activations are not
        # clipped, but the errors grow with them.
        "int4": PrecisionGates(0.3, edges_by_value=False, limits={"min_cosine": 0.98, "min_top1_agreement": 0.97}),
    }
)
