"""What a search may change of a candidate, one thing at a time: a pass or its options, or an option of the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from orchestrator.backends.table import backend
from orchestrator.optimize import combinations
from orchestrator.optimize.variants import Candidate, Pass, Variant
from orchestrator.steps.runtime_options import RuntimeOptions

__all__ = ["Change", "changed_together", "changes_of"]

_RUNTIME_OPTIONS = frozenset(each.name for each in fields(RuntimeOptions))


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs from a candidate.

    Attributes:
        subject: what is changed: an option of the runtime (`threads`), a pass (`slim`) or an option of one (`int8.percentile`).
            Of changes with one subject, only one can be made.
        value: of the runtime's option; otherwise the whole variant.
    """

    subject: str
    value: Any

    @property
    def of_runtime(self) -> bool:
        """Whether the variant stays, so that outputs stay what they are but for the order of sums."""
        return self.subject in _RUNTIME_OPTIONS

    @property
    def of_pass(self) -> str | None:
        """The name of the pass that is changed; None for an option of the runtime."""
        return None if self.of_runtime else self.subject.partition(".")[0]

    def applied(self, candidate: Candidate) -> Candidate:
        """The candidate with this change."""
        if self.of_runtime:
            return replace(candidate, options=replace(candidate.options, **{self.subject: self.value}))
        return replace(candidate, variant=self.value)


def changes_of(
    candidate: Candidate, variants: Iterable[Variant], cpus: float, *, at_once: bool = False
) -> tuple[Change, ...]:
    """The changes worth a try, the most promising first.

    Args:
        candidate: that leads.
        variants: that are worth trying; those that differ from the candidate's in more than one pass are left out, and those that
            its backend does not run.
        cpus: of a server.
        at_once: whether many requests at a time count, for which several instances may be worth a try.
    """
    of_passes = (
        Change(subject, variant)
        for variant in variants
        if (subject := _differs_in(variant, candidate.variant)) is not None
        and combinations.runs_on(variant, candidate.backend)
    )
    instances = _instances(candidate, cpus) if at_once else ()
    return (*of_passes, *instances, *_of_runtime(candidate, cpus))


def changed_together(candidate: Candidate, changes: Sequence[Change]) -> Candidate | None:
    """The candidate with all changes at once; None where it would have two precisions."""
    passes = {each.name: each for each in candidate.variant.passes}
    for change in changes:
        if change.of_runtime:
            candidate = change.applied(candidate)
            continue
        known = {each.name: each for each in candidate.variant.passes}
        for each in change.value.passes:
            if known.get(each.name) != each:
                passes[each.name] = _joined(passes.get(each.name), each)
    if not passes:
        return candidate
    variant = combinations.combined([replace(candidate.variant, passes=(each,)) for each in passes.values()])
    return None if variant is None else replace(candidate, variant=variant)


def _joined(one: Pass | None, other: Pass) -> Pass:
    if one is None or one.options is None or other.options is None:
        return other
    return replace(one, options=one.options.joined(other.options))


def _differs_in(variant: Variant, other: Variant) -> str | None:
    """The one pass that is added, left out or has other options; None where there are more, or none."""
    if (variant.format, variant.conversion) != (other.format, other.conversion):
        return None
    mine, theirs = ({each.name: each for each in both.passes} for both in (variant, other))
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    if len(names) != 1:
        return None
    name = names[0]
    if name in mine and name in theirs and (options := mine[name].options) is not None:
        return f"{name}.{'.'.join(options.changed()) or 'defaults'}"
    return name


def _instances(candidate: Candidate, cpus: float) -> Iterator[Change]:
    """As many instances as there are CPUs, then by halves; the CPUs are divided among them."""
    instances = int(cpus)
    while "instances" in backend(candidate.backend).options and instances > 1:
        yield Change("instances", instances)
        instances //= 2


def _of_runtime(candidate: Candidate, cpus: float) -> Iterator[Change]:
    """Fewer threads, by halves: synchronizing them costs more than it gains where operators are small. And flags of the runtime.

    Not IO binding: on CPUs it costs more than it saves (docs/server.md).
    """
    known = backend(candidate.backend).options
    threads = candidate.options.threads_of(cpus)
    if "threads" in known:
        while (threads := threads // 2) >= 1:
            yield Change("threads", threads)
    if "spinning" in known:
        yield Change("spinning", value=True)
    if "graph_optimization" in known:
        yield Change("graph_optimization", "extended")
    if "memory_arena" in known:
        yield Change("memory_arena", value=False)
