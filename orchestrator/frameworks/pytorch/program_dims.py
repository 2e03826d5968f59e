"""Names the open dimensions of an exported program, with the sizes that it states for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.artifacts.inspection import FoundNote

if TYPE_CHECKING:
    import sympy

__all__ = ["UNBOUNDED", "ProgramDims"]

UNBOUNDED = 2**31
"""The maximum of a range that is open in the exported program: the largest size that a spec allows."""

Size = int | str | None


@dataclass(frozen=True, slots=True)
class _Multiple:
    """A size that is a multiple of `step`: `step` times a symbol, plus a multiple of `step`."""

    symbol: sympy.Symbol
    step: int
    more: int


class ProgramDims:
    """The sizes of inputs and outputs, each open one by a name: `batch`, or an input's name and the axis.

    A size may be an expression such as `4*s0`. Dimensions of a spec are independent and have a range and a number of which their
    sizes are multiples. What does not fit into that, such as `2*s0 + 1`, or `s0` and `s0 + 1` in two places, is fixed at the size
    that the program was exported with.

    Args:
        inputs: name → the tensor of the graph; what is no tensor is ignored.
        constraints: expression of sizes → its range, as in the program.

    Attributes:
        ranges: name of a dimension → its smallest and largest size, `UNBOUNDED` if there is no largest.
        multiples: name of a dimension → the number that its sizes are multiples of, if it is not 1.
        notes: on the sizes that were fixed.
    """

    def __init__(self, inputs: Mapping[str, Any], constraints: Mapping[sympy.Expr, Any]) -> None:
        self._constraints = {str(expression): bounds for expression, bounds in constraints.items()}
        self._names: dict[str, str] = {}
        self._fixed: dict[str, int | None] = {}
        self.ranges: dict[str, tuple[int, int]] = {}
        self.multiples: dict[str, int] = {}
        self.notes: list[FoundNote] = []
        places = list(_open_sizes(inputs))
        used: dict[Any, set[str]] = {}
        for _, _, size in places:
            for symbol in size.node.expr.free_symbols:
                used.setdefault(symbol, set()).add(str(size))
        for name, axis, size in places:
            key = str(size)
            together = sorted({other for symbol in size.node.expr.free_symbols for other in used[symbol]} - {key})
            multiple = _as_multiple(size.node.expr)
            if together or multiple is None:
                self._fix(name, axis, size, together)
            elif key not in self._names:
                self._name(key, name, axis, multiple)

    def shape(self, value: torch.Tensor) -> tuple[Size, ...]:
        """The sizes of an input or output; None for one that no input has."""
        return tuple(self._size(size) for size in value.shape)

    def _size(self, size: Any) -> Size:
        if isinstance(size, int):
            return size
        return self._names.get(str(size)) or self._fixed.get(str(size))

    def _name(self, key: str, tensor: str, axis: int, multiple: _Multiple) -> None:
        name = "batch" if axis == 0 and "batch" not in self._names.values() else f"{tensor}_{axis}"
        self._names[key] = name
        if multiple.step > 1:
            self.multiples[name] = multiple.step
        low, high = 0, UNBOUNDED
        for expression, step, more in ((key, 1, 0), (str(multiple.symbol), multiple.step, multiple.more)):
            bounds = self._constraints.get(expression)
            if bounds is not None:
                low = max(low, step * int(bounds.lower) + more)
                high = min(high, step * int(bounds.upper) + more if bounds.upper < UNBOUNDED else UNBOUNDED)
        if high < UNBOUNDED:
            high = high // multiple.step * multiple.step
        self.ranges[name] = (-(-low // multiple.step) * multiple.step, high)

    def _fix(self, tensor: str, axis: int, size: Any, together: list[str]) -> None:
        hint = size.node.hint
        self._fixed[str(size)] = None if hint is None else int(hint)
        why = f"which depends on {' and '.join(together)} elsewhere" if together else "which is no range of multiples"
        done = "" if hint is None else f"; it is fixed at {hint}, as in the example that the program was exported with"
        self.notes.append(FoundNote(f"dimension {axis} of `{tensor}` is {size}, {why}{done}", tensor))


def _open_sizes(inputs: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """Input, axis and size of all open dimensions."""
    for name, value in inputs.items():
        for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if not isinstance(size, int):
                yield name, axis, size


def _as_multiple(expression: sympy.Expr) -> _Multiple | None:
    """The expression as a multiple; None if its sizes are not all multiples of the distance between them."""
    symbols = list(expression.free_symbols)
    if len(symbols) != 1:
        return None
    step = expression.coeff(symbols[0])
    more = expression - step * symbols[0]
    if not (step.is_Integer and more.is_Integer and step > 0 and int(more) % int(step) == 0):
        return None
    return _Multiple(symbols[0], int(step), int(more))
