"""Finds the integers that random inputs are drawn from: what a type or the model's graph shows, and what the model takes.

Integers mean something: counts, minutes, ids, masks, lengths. Where nobody gives samples, an id comes from its whole table, and
anything else from the range of its type that models are used with. A model may refuse some of that, or answer NaN. What it
takes is then found by calling it, so that no model is refused for inputs that it never gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.source.edge_cases import call_at, sizes_of
from orchestrator.frameworks.source.samples import LARGEST_INTEGER, IntegerRange, random_samples
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["Tried", "found_ranges", "searched_ranges"]

Tried = Callable[[Mapping[str, "Array"]], Iterable["Array"]]
"""One call of the source; the outputs that it returns. It raises a StepError or a MemoryError where the model refuses."""

_MODERATE = 1000
"""Tried before the whole range: a model that takes a size or a number of steps shows that here already."""

_FLAG = IntegerRange(0, 1)
_PATIENCE = 20.0
"""Seconds of computing that the calls which find a range may take in all; what else the machine does is not counted."""

_SLOWER, _UNNOTICED = 20, 0.5
"""A call that computes this many times as long as one with 0 and 1, and this many seconds more, takes integers for sizes."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is compared between calls: the shapes, which outputs hold NaN, and how long the calls computed."""

    shapes: list[tuple[int, ...]]
    strange: list[bool]
    seconds: float


def found_ranges(
    signature: Signature, shown: Mapping[str, IntegerRange], tried: Tried, seed: int
) -> tuple[dict[str, IntegerRange], list[str]]:
    """The range of each integer input, and a note on each.

    Args:
        signature: with its inputs; those whose values the spec gives are left out.
        shown: what the model's graph shows of its inputs, such as the size of the table that ids look up.
        tried: calls the source.
        seed: as of `random_samples`.
    """
    taken, reasons = searched_ranges(signature, shown, tried, seed)
    return taken, [_note(name, found, name in shown, reasons.get(name)) for name, found in taken.items()]


def searched_ranges(
    signature: Signature, shown: Mapping[str, IntegerRange], tried: Tried, seed: int
) -> tuple[dict[str, IntegerRange], dict[str, str]]:
    """The range of each integer input, and why it is narrower than what its type or the graph shows, where it is.

    Args:
        signature: as of `found_ranges`.
        shown: as of `found_ranges`.
        tried: as of `found_ranges`.
        seed: as of `found_ranges`.
    """
    integers = [tensor for tensor in signature.inputs if _is_integer(tensor) and tensor.allowed is None]
    if not integers:
        return {}, {}
    wanted = {tensor.name: shown.get(tensor.name) or _useful(tensor) for tensor in integers}
    return _Search(signature, tried, seed).narrowed(wanted)


def _is_integer(tensor: Tensor) -> bool:
    return tensor.dtype not in {"string", "bool"} and np.dtype(tensor.dtype).kind in "iu"


def _useful(tensor: Tensor) -> IntegerRange:
    """All of a narrow type; of a wide one what models count with, and its sums do not overflow."""
    if "mask" in tensor.name.lower():
        return _FLAG
    limits = np.iinfo(tensor.dtype)
    return IntegerRange(int(max(limits.min, -LARGEST_INTEGER)), int(min(limits.max, LARGEST_INTEGER)))


def _note(name: str, found: IntegerRange, shown: bool, reason: str | None) -> str:
    ends = f"from {found.low:,} to {found.high:,}"
    if reason is not None:
        return f"samples: integers of `{name}` are drawn {ends}, since the model does not take others: {reason}"
    if shown:
        return f"samples: `{name}` holds ids, which are drawn {ends}, all that the model has"
    return f"samples: what the integers of `{name}` mean is unknown; they are drawn {ends}"


class _Search:
    """Calls of the source that show which integers it takes."""

    def __init__(self, signature: Signature, tried: Tried, seed: int) -> None:
        self._signature = signature
        self._tried = tried
        self._seed = seed
        self._ends = process_time() + _PATIENCE
        self._reason = ""
        self._plain: _Answer | None = None

    def narrowed(self, wanted: Mapping[str, IntegerRange]) -> tuple[dict[str, IntegerRange], dict[str, str]]:
        """Of each wanted range what the model takes, and why it is less where it is."""
        flags = {name: _within(found, 1) for name, found in wanted.items()}
        self._plain = self._called(self._rows(flags))
        if self._plain is None:
            return flags, {}  # it fails in any case, and the import step says so
        if self._takes({name: _within(found, _MODERATE) for name, found in wanted.items()}) and self._takes(wanted):
            return dict(wanted), {}
        taken, reasons = dict(flags), {}
        for name, found in wanted.items():
            if self._takes({**taken, name: _within(found, _MODERATE)}) and self._takes({**taken, name: found}):
                taken[name] = found
                continue
            reason = self._reason
            narrow = IntegerRange(
                -self._last(taken, name, -flags[name].low, -found.low, -1), self._last(taken, name, 1, found.high, 1)
            )
            taken[name] = narrow if self._takes({**taken, name: narrow}) else flags[name]
            reasons[name] = reason
        return taken, reasons

    def _last(self, taken: Mapping[str, IntegerRange], name: str, sure: int, most: int, sign: int) -> int:
        """The largest integer up to `most`, with this sign, that the model takes everywhere in one input."""
        taken_yet, step = sure, 1
        while taken_yet < most:
            further = min(taken_yet + step, most)
            if not self._takes(taken, {name: sign * further}):
                return self._between(taken, name, taken_yet, further, sign)
            taken_yet, step = further, 4 * step
        return taken_yet

    def _between(self, taken: Mapping[str, IntegerRange], name: str, low: int, high: int, sign: int) -> int:
        """The last integer that the model takes, between one that it takes and one that it does not."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._takes(taken, {name: sign * middle}) else (low, middle)
        return low

    def _rows(self, ranges: Mapping[str, IntegerRange]) -> list[dict[str, Array]]:
        """Calls with some of the rows that these ranges give, the first of which holds their ends.

        The last is of the smallest sizes: places in another input are fewer there.
        """
        signature = self._signature
        samples = random_samples(signature, self._seed, ranges)
        sizes = sizes_of(samples, signature)
        smallest = call_at(samples, signature, {dim: low for dim, (low, _) in signature.dims.items()})
        if signature.batch is None:
            rows = [call_at(samples, signature, sizes, row) for row in range(min(4, samples.rows))]
            return [*rows, smallest]
        rows_at_once = signature.fitting(signature.batch, samples.rows)
        return [call_at(samples, signature, {**sizes, signature.batch: rows_at_once}), smallest]

    def _takes(self, ranges: Mapping[str, IntegerRange], filled: Mapping[str, int] | None = None) -> bool:
        """Whether the model answers as it answers 0 and 1: of the same shapes, without NaN, in about the same time."""
        if process_time() > self._ends:
            self._reason = "its answers take too long to find out more"
            return False
        calls = self._rows(ranges)
        if filled is not None:
            calls = [
                {name: np.full_like(array, filled[name]) if name in filled else array for name, array in inputs.items()}
                for inputs in calls
            ]
        answer, plain = self._called(calls), self._plain
        if answer is None or plain is None:
            return False
        if answer.shapes != plain.shapes:
            self._reason = "the shape of its outputs depends on them"
        elif any(now and not before for now, before in zip(answer.strange, plain.strange, strict=True)):
            self._reason = "it answers NaN"
        elif answer.seconds > _UNNOTICED + _SLOWER * plain.seconds:
            self._reason = "its answer takes much longer"
        else:
            return True
        return False

    def _called(self, calls: list[dict[str, Array]]) -> _Answer | None:
        shapes, strange = [], []
        begun = process_time()
        try:
            for inputs in calls:
                outputs = list(self._tried(inputs))
                shapes += [output.shape for output in outputs]
                strange += [output.dtype.kind == "f" and bool(np.isnan(output).any()) for output in outputs]
        except StepError as error:
            self._reason = error.cause or error.message
            return None
        except MemoryError:
            self._reason = "its memory does not suffice"
            return None
        return _Answer(shapes, strange, process_time() - begun)


def _within(found: IntegerRange, most: int) -> IntegerRange:
    """The part of the range that is no further from zero."""
    return replace(found, low=max(found.low, -most if most > 1 else 0), high=min(found.high, most))
