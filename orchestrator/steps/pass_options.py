"""What the passes that make variants can vary: one class of options per pass that has any, read by the pass's function.

Plain dataclasses, as in `parameters.py`. Options become part of the names of variants, and so of steps and folders; their
names and values are checked when they are made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal, Self, get_args

__all__ = [
    "AnyPassOptions",
    "IntegerTypes",
    "OnnxInt4Options",
    "OnnxInt8Options",
    "PassOptions",
    "QuantizationMethod",
    "RangeRule",
    "WeightBits",
]

_SAFE = re.compile(r"[a-z0-9][a-z0-9.-]{0,23}")
"""A name or value that may stand in the name of a variant."""


class PassOptions:
    """The base of all options: every field has a default, and every name and value is short and of safe characters."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    @property
    def judged(self) -> bool:
        """Whether the pass looks at the gates that its result has to hold."""
        return False

    def __post_init__(self) -> None:
        """Check what `suffix` is made of.

        Raises:
            ValueError: a value has other characters than lower-case letters, digits, dots and hyphens, or more than 24.
        """
        for name, value in self._shown().items():
            if not _SAFE.fullmatch(value):
                raise ValueError(
                    f"the option {name} of a pass cannot be {value!r}: use a-z, 0-9, dots and hyphens, at most 24"
                )

    def changed(self) -> tuple[str, ...]:
        """The names of the options that are not the defaults, sorted."""
        usual = _usual(type(self))  # type: ignore[arg-type] # mypy takes no class for hashable
        return tuple(sorted(name for name in self._names() if getattr(self, name) != getattr(usual, name)))

    def joined(self, other: PassOptions) -> Self:
        """These options, with those that `other` changes.

        Raises:
            ValueError: they are of another pass.
        """
        if type(other) is not type(self):
            raise ValueError(f"options of {type(self).__name__} cannot be joined with {type(other).__name__}")
        changes: dict[str, Any] = {name: getattr(other, name) for name in other.changed()}
        return replace(self, **changes)  # type: ignore[type-var] # every class of options is a dataclass

    def suffix(self) -> str:
        """The suffix of a pass's name: `:percentile=99.9`; empty for the defaults."""
        if not (changed := self.changed()):
            return ""
        shown = self._shown()
        return "".join(f":{name.replace('_', '-')}={shown[name]}" for name in changed)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {name: getattr(self, name) for name in self._names()}

    @classmethod
    @cache
    def _names(cls) -> tuple[str, ...]:
        return tuple(each.name for each in fields(cls))  # type: ignore[arg-type] # every class of options is a dataclass

    def _shown(self) -> dict[str, str]:
        values = self.as_json()
        return {
            name: f"{value:.6g}" if isinstance(value, float) else str(value).lower() for name, value in values.items()
        }


@cache
def _usual(kind: type[PassOptions]) -> PassOptions:
    """The defaults."""
    return kind()


QuantizationMethod = Literal["auto", "static", "dynamic", "weights"]
WeightBits = Literal["auto", 7, 8]
RangeRule = Literal["percentile", "entropy"]
IntegerTypes = Literal["u8s8", "u8u8", "s8s8"]
Exclusion = Literal["none", "auto"]


@dataclass(frozen=True, slots=True)
class OnnxInt8Options(PassOptions):
    """How an ONNX model is quantized to int8.

    Attributes:
        method: whether activations have ranges that were calibrated, or a new one at every call; `auto`: static for models with
            convolutions, dynamic for others. `weights`: only weights are stored in int8, in blocks of matrix products; the
            arithmetic stays in floating point.
        calibration: how calibrated ranges are found: `percentile`, or `entropy`: the ranges that lose the least information.
        percentile: share of an activation's values, in per cent, that a calibrated range covers; 100: all values, which is the
            range from the smallest to the largest.
        types: of activations and weights: unsigned (`u8`) or signed (`s8`). Which is fast depends on the CPU.
        per_channel: whether every output channel of a weight has a scale of its own.
        smoothing: with dynamic ranges, how much of an activation's outliers moves into the weights, from 0 to 1; 0 turns
            smoothing off. Measured on MiniLM, the error of the embedding (1 - cosine) is 0.0082 without, 0.0088 at 0.5,
            0.0038 at 0.6, 0.0033 at 0.7, 0.0051 at 0.8.
        weight_bits: `auto`: 8, or 7 where this CPU would saturate on 8.
        exclude: `auto`: as many of the most sensitive layers stay in floating point as the gates demand.

    Raises:
        ValueError: a value is none of these.
    """

    method: QuantizationMethod = "auto"
    calibration: RangeRule = "percentile"
    percentile: float = 100.0
    types: IntegerTypes = "u8s8"
    per_channel: bool = True
    smoothing: float = 0.7
    weight_bits: WeightBits = "auto"
    exclude: Exclusion = "none"

    @property
    def judged(self) -> bool:
        """Whether the pass looks at the gates."""
        return self.exclude == "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        PassOptions.__post_init__(self)
        for name, value, known in (
            ("method", self.method, get_args(QuantizationMethod)),
            ("calibration", self.calibration, get_args(RangeRule)),
            ("types", self.types, get_args(IntegerTypes)),
            ("per_channel", self.per_channel, (True, False)),
            ("weight_bits", self.weight_bits, get_args(WeightBits)),
            ("exclude", self.exclude, get_args(Exclusion)),
        ):
            if value not in known:
                raise ValueError(f"the option {name} of int8 is one of {', '.join(map(str, known))}, not {value!r}")
        for name, number, low, high in (
            ("percentile", self.percentile, 90.0, 100.0),
            ("smoothing", self.smoothing, 0.0, 1.0),
        ):
            if not low <= number <= high:
                raise ValueError(f"the option {name} of int8 is from {low:g} to {high:g}, not {number!r}")


BlockSize = Literal[16, 32, 64, 128]
Activations = Literal["float", "int8"]


@dataclass(frozen=True, slots=True)
class OnnxInt4Options(PassOptions):
    """How the weights of an ONNX model's matrix products are stored in 4 bits.

    Attributes:
        block: weights of one output that share a scale; smaller blocks are more exact and larger files.
        activations: in which arithmetic the products are computed: `int8` rounds activations, which is faster.

    Raises:
        ValueError: a value is none of these.
    """

    block: BlockSize = 32
    activations: Activations = "float"

    def __post_init__(self) -> None:
        """Check the values."""
        PassOptions.__post_init__(self)
        for name, value, known in (
            ("block", self.block, get_args(BlockSize)),
            ("activations", self.activations, get_args(Activations)),
        ):
            if value not in known:
                raise ValueError(f"the option {name} of int4 is one of {', '.join(map(str, known))}, not {value!r}")


AnyPassOptions = OnnxInt8Options | OnnxInt4Options
"""The options of any pass: the union of all classes above."""
