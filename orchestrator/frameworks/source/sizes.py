"""Finds the sizes that a model takes by calling it: of each open dimension the smallest, a sensible largest, and multiples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

from orchestrator.artifacts.probed import ProbedDim
from orchestrator.frameworks.source.edge_cases import inner_sizes

if TYPE_CHECKING:
    from orchestrator.frameworks.source.trials import Trials
    from orchestrator.spec.signature import Signature

__all__ = ["FoundSizes", "SizeSearch"]

_USUAL = (
    32, 64, 128, 224, 256, 320, 512, 576, 640, 1024, 2048, 4096, 8192, 16000, 1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 24, 28,
    40, 48, 80, 96, 100, 160, 192, 200, 300, 384, 400, 416, 480, 500, 768, 800,
)  # fmt: skip
"""Sizes that models are made for, those first that most take."""

_APART = (1, 8, 32, 64, 128, 256, 512)
"""Sizes of dimensions that cannot be of one size."""

_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 160, 256, 320, 512)
_TOGETHER = (1, 2, 8, 32)

_ROWS, _IMAGE, _OTHER = 64, 640, 128
"""The largest sizes to declare where nobody gives one: of a batch, of an image's height and width, and of the rest."""

_SLOW, _SLOWEST = 2.0, 6.0
"""Seconds of computing that a call with one dimension at its largest may take, and one with all of them."""


@dataclass(frozen=True, slots=True)
class FoundSizes:
    """The sizes that a model takes.

    Attributes:
        base: sizes of one call that it takes.
        dims: name → what was found.
        questions: what a person has to decide.
    """

    base: Mapping[str, int]
    dims: Mapping[str, ProbedDim]
    questions: Sequence[str] = ()


class SizeSearch:
    """Looks for the sizes of a model's open dimensions.

    Args:
        signature: with its inputs; a range in `dims` bounds the search, and so does a number in `multiples`.
        stated: the dimensions whose range the model states.
        trials: calls it.
    """

    def __init__(self, signature: Signature, stated: frozenset[str], trials: Trials) -> None:
        self._signature = signature
        self._stated = stated
        self._trials = trials
        self._names = [
            name for name in signature.dims if any(name in (tensor.shape or ()) for tensor in signature.inputs)
        ]
        self._base: dict[str, int] = {}

    def first(self) -> Mapping[str, int] | None:
        """Sizes that the model takes; None if none of those that models are made for are."""
        for sizes in self._tries():
            if self._trials.takes(sizes):
                self._base = sizes
                return sizes
        return None

    def found(self) -> FoundSizes:
        """All sizes; `first` found some."""
        questions: list[str] = []
        dims: dict[str, ProbedDim] = {}
        for group in self._groups():
            found, question = self._dim(group)
            questions += [question] if question else []
            dims[group[0]] = found
            dims.update({name: _same(found, group[0]) for name in group[1:]})
        return FoundSizes(self._base, self._with_fewer_rows(self._all_together(dims, questions)), questions)

    def _tries(self) -> Iterator[dict[str, int]]:
        inner = [name for name in self._names if name != self._signature.batch]
        batches = [None] if self._signature.batch is None else [1, 2, 8]
        for rows in batches:
            with_rows = {} if rows is None else {str(self._signature.batch): self._within(self._signature.batch, rows)}
            for size in _USUAL if inner else _USUAL[:1]:
                yield with_rows | {name: self._within(name, size) for name in inner}
        if 1 < len(inner) <= 3:
            for sizes in product(_APART, repeat=len(inner)):
                yield {
                    **({} if self._signature.batch is None else {self._signature.batch: 1}),
                    **{name: self._within(name, size) for name, size in zip(inner, sizes, strict=True)},
                }

    def _within(self, name: str | None, size: int) -> int:
        """The size, or the nearest one that the model states."""
        step = self._signature.multiples.get(name or "", 1)
        size = max(step, size // step * step)
        if name is None or name not in self._stated:
            return size
        low, high = self._signature.dims[name]
        return min(max(size, low), high)

    def _groups(self) -> list[list[str]]:
        """The dimensions; those together that only change together."""
        stuck = [name for name in self._names if self._step([name]) is None]
        groups = [[name] for name in self._names]
        for one, other in combinations(stuck, 2):
            if self._base[one] == self._base[other] and any(
                self._trials.takes(self._at([one, other], self._base[one] + step)) for step in _TOGETHER
            ):
                first = next(group for group in groups if one in group)
                second = next(group for group in groups if other in group)
                if first is not second:
                    first += second
                    groups.remove(second)
        return groups

    def _at(self, group: Sequence[str], size: int) -> dict[str, int]:
        return {**self._base, **dict.fromkeys(group, size)}

    def _step(self, group: Sequence[str]) -> int | None:
        """The distance between two sizes that the model takes; None if it takes no other than the first."""
        base, stated = self._base[group[0]], self._signature.multiples.get(group[0], 1)
        for step in dict.fromkeys((stated, *_STEPS)):
            if step % stated == 0 and all(self._trials.takes(self._at(group, base + times * step)) for times in (1, 2)):
                return step
        return None

    def _dim(self, group: Sequence[str]) -> tuple[ProbedDim, str]:
        """What is found of one dimension, or of several that are one; and a question, if there is one."""
        name, base = group[0], self._base[group[0]]
        if name in self._stated and len(group) == 1:
            return self._stated_range(name)
        step = self._step(group)
        if step is None:
            why = self._trials.at(self._at(group, base + 1)).refused
            question = (
                ""
                if name == self._signature.batch
                else f"of `{name}`, only the size {base} was found to work, since others fail: {why}; if you know of others, give the range"
            )
            return ProbedDim(base, base, 1, f"other sizes fail: {why}"), question
        if base % step:
            why = self._trials.at(self._at(group, base + 1)).refused
            question = f"`{name}` may be {base}, {base + step}, {base + 2 * step} and so on, which no range can say; it is fixed at {base}"
            return ProbedDim(base, base, 1, f"others fail: {why}"), question
        low = self._lowest(group, step)
        high, why_high = self._highest(group, step, low)
        reasons = []
        if step > 1 and step == self._signature.multiples.get(name):
            reasons.append(f"a multiple of {step}, as the model states")
        elif step > 1:
            reasons.append(
                f"a multiple of {step}; {base + 1} fails: {self._trials.at(self._at(group, base + 1)).refused}"
            )
        if low > step:
            reasons.append(f"{low - step} fails: {self._trials.at(self._at(group, low - step)).refused}")
        return ProbedDim(low, high, step, "; ".join([*reasons, why_high])), self._inner(group, low, high, step)

    def _stated_range(self, name: str) -> tuple[ProbedDim, str]:
        low, high = self._signature.dims[name]
        step = self._signature.multiples.get(name, 1)
        for size in (low, high):
            trial = self._trials.at(self._at([name], size))
            if trial.refused and size != self._base[name]:
                question = f"the model states {low} to {high} for `{name}`, but {size} fails: {trial.refused}"
                return ProbedDim(low, high, step, "read from the model"), question
        return ProbedDim(low, high, step, "read from the model"), ""

    def _lowest(self, group: Sequence[str], step: int) -> int:
        """The smallest multiple of `step` that the model takes, if it takes all from there on."""
        fails, takes = 0, self._base[group[0]] // step
        if takes > 1 and self._trials.takes(self._at(group, step)):
            return step
        fails = 1 if takes > 1 else 0
        while takes - fails > 1:
            middle = (takes + fails) // 2
            fails, takes = (fails, middle) if self._trials.takes(self._at(group, middle * step)) else (middle, takes)
        return takes * step

    def _highest(self, group: Sequence[str], step: int, low: int) -> tuple[int, str]:
        """A sensible largest size, and why it is that."""
        wanted = self._usual_largest(group)
        wanted = max(wanted, 4 * low) if low > wanted // 4 and group[0] != self._signature.batch else wanted
        takes, most = max(low, self._base[group[0]]) // step, wanted // step
        fails = most + 1
        while takes < most:  # in steps, so that no call computes much longer than the one before
            further = min(2 * takes, most)
            if not self._trials.bearable(self._at(group, further * step), _SLOW):
                fails = further
                break
            takes = further
        if fails > most:
            return max(low, takes * step), "the largest is assumed"
        if not self._trials.at(self._at(group, fails * step)).refused:
            return takes * step, "the largest is what one call computes within seconds, and with less than a gigabyte"
        while fails - takes > 1:
            middle = (takes + fails) // 2
            fails, takes = (fails, middle) if self._trials.takes(self._at(group, middle * step)) else (middle, takes)
        return takes * step, f"{fails * step} fails: {self._trials.at(self._at(group, fails * step)).refused}"

    def _usual_largest(self, group: Sequence[str]) -> int:
        if self._signature.batch in group:
            return _ROWS
        images = (tensor for tensor in self._signature.inputs if len(tensor.shape or ()) == 4)
        return _IMAGE if any(set(group) & set((tensor.shape or ())[1:]) for tensor in images) else _OTHER

    def _inner(self, group: Sequence[str], low: int, high: int, step: int) -> str:
        """A question if sizes between the two fail."""
        for size in inner_sizes(low, high, step):
            if refused := self._trials.at(self._at(group, size)).refused:
                return f"`{group[0]}` may be {low} and {high}, but not {size}: {refused}"
        return ""

    def _all_together(self, dims: Mapping[str, ProbedDim], questions: list[str]) -> dict[str, ProbedDim]:
        """The dimensions, narrowed until the model takes all their smallest sizes together, and all their largest."""
        narrowed = dict(dims)
        for end in ("low", "high"):
            largest_first = sorted(narrowed, key=lambda name: -dims[name].high)
            for name in largest_first:
                if self._trials.bearable(self._ends(narrowed, end), _SLOWEST):
                    break
                if narrowed[name].same_as is None:
                    narrowed = self._at_its_base(narrowed, name, end)
            if refused := self._trials.at(self._ends(narrowed, end)).refused:
                questions.append(f"not all sizes that work alone work together, so check the ranges: {refused}")
        return narrowed

    def _with_fewer_rows(self, dims: dict[str, ProbedDim]) -> dict[str, ProbedDim]:
        """The dimensions, with a largest batch that computes for seconds, not minutes, where all others are at their largest."""
        batch = self._signature.batch
        if batch is None or batch in self._stated:
            return dims
        found, seconds = dims[batch], self._trials.at(self._ends(dims, "high")).seconds
        rows = found.high
        while rows > max(1, found.low) and rows * seconds > found.low * _SLOWEST:
            rows //= 2
        if rows == found.high:
            return dims
        rows = max(found.low, rows // found.step * found.step)
        reason = f"{found.reason}; one row of the largest inputs computes for {seconds / max(1, found.low):.1f} s"
        return {**dims, batch: ProbedDim(found.low, rows, found.step, reason)}

    def _at_its_base(self, dims: Mapping[str, ProbedDim], name: str, end: str) -> dict[str, ProbedDim]:
        base = self._base[name]
        changed = dict(dims)
        for each, dim in dims.items():
            if name in (each, dim.same_as):
                reason = f"{'smaller' if end == 'low' else 'larger'} ones do not work, or take long, where all are"
                low, high = (base, dim.high) if end == "low" else (dim.low, max(base, dim.low))
                changed[each] = ProbedDim(low, max(low, high), dim.step, f"{dim.reason}; {reason}", dim.same_as)
        return changed

    def _ends(self, dims: Mapping[str, ProbedDim], end: str) -> dict[str, int]:
        sizes = {name: dim.low if end == "low" else dim.high for name, dim in dims.items()}
        batch = self._signature.batch
        if end == "high" and batch is not None:
            sizes[batch] = dims[batch].low  # a batch of the largest inputs is the server's to bound
        return sizes


def _same(found: ProbedDim, first: str) -> ProbedDim:
    return ProbedDim(found.low, found.high, found.step, found.reason, first)
