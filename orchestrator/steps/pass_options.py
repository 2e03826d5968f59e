"""What the passes that make variants can vary: one class of options per pass that has any, read by the pass's function.

Plain dataclasses, as in `parameters.py`. Options become part of the names of variants, and so of steps and folders; their
names and values are checked when they are made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Literal, get_args

__all__ = ["AnyPassOptions", "OnnxInt8Options", "PassOptions", "QuantizationMethod", "WeightBits"]

_SAFE = re.compile(r"[a-z0-9][a-z0-9.-]{0,23}")
"""A name or value that may stand in the name of a variant."""


class PassOptions:
    """The base of all options: every field has a default, and every name and value is short and of safe characters."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

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


QuantizationMethod = Literal["auto", "static", "dynamic"]
WeightBits = Literal["auto", 7, 8]


@dataclass(frozen=True, slots=True)
class OnnxInt8Options(PassOptions):
    """How an ONNX model is quantized to int8.

    Attributes:
        method: whether activations have ranges that were calibrated, or a new one at every call; `auto`: static for models with
            convolutions, dynamic for others.
        percentile: share of an activation's values, in per cent, that a calibrated range covers; 100: all values, which is the
            range from the smallest to the largest.
        smoothing: with dynamic ranges, how much of an activation's outliers moves into the weights, from 0 to 1; 0 turns
            smoothing off. Measured on MiniLM, the error of the embedding (1 - cosine) is 0.0082 without, 0.0088 at 0.5,
            0.0038 at 0.6, 0.0033 at 0.7, 0.0051 at 0.8.
        weight_bits: `auto`: 8, or 7 where this CPU would saturate on 8.

    Raises:
        ValueError: a value is none of these.
    """

    method: QuantizationMethod = "auto"
    percentile: float = 100.0
    smoothing: float = 0.7
    weight_bits: WeightBits = "auto"

    def __post_init__(self) -> None:
        """Check the values."""
        PassOptions.__post_init__(self)
        for name, value, known in (
            ("method", self.method, get_args(QuantizationMethod)),
            ("weight_bits", self.weight_bits, get_args(WeightBits)),
        ):
            if value not in known:
                raise ValueError(f"the option {name} of int8 is one of {', '.join(map(str, known))}, not {value!r}")
        for name, number, low, high in (
            ("percentile", self.percentile, 90.0, 100.0),
            ("smoothing", self.smoothing, 0.0, 1.0),
        ):
            if not low <= number <= high:
                raise ValueError(f"the option {name} of int8 is from {low:g} to {high:g}, not {number!r}")


AnyPassOptions = OnnxInt8Options
"""The options of any pass: the union of all classes above."""
