"""All that an exhaustive search tries: every variant worth making, and each with every combination of options of the runtime."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from orchestrator.engine.planning import Planned
from orchestrator.optimize.changes import Change, changed_together, changes_of
from orchestrator.optimize.combinations import runs_on, variants_to_try
from orchestrator.optimize.variants import Candidate, Variant

__all__ = ["BACKENDS", "plain_candidates", "variants", "with_options"]

BACKENDS = ("onnxruntime", "openvino")
CPUS = 2


def variants(planned: Planned, operators: frozenset[str] | None = None, *, short: bool = False) -> tuple[Variant, ...]:
    """Every set of passes, each option of a pass that is worth trying, and what results if two of all those are combined.

    Args:
        planned: the spec.
        operators: of the converted model; None if they are not known yet.
        short: leave out the combinations.
    """
    spec = planned.loaded.spec
    found = variants_to_try(
        "onnx",
        spec.model.source.kind,
        planned.plan.here,
        samples=True,
        operators=operators,
        precisions=("fp32", "int8"),
    )
    every = {each.identity: each for each in found}
    for one, other in () if short else itertools.product(found, found):
        both = changed_together(Candidate(one, BACKENDS[0]), (Change("variant", other),))
        if both is not None:
            every.setdefault(both.variant.identity, both.variant)
    return tuple(every.values())


def plain_candidates(found: tuple[Variant, ...]) -> list[Candidate]:
    """Each variant on each backend that runs it, with the usual options of the runtime."""
    return [Candidate(variant, backend) for variant in found for backend in BACKENDS if runs_on(variant, backend)]


def with_options(candidate: Candidate, *, short: bool = False) -> Iterator[Candidate]:
    """The candidate with every combination of the options of its runtime that differ in what it does; the plain one is first.

    A runtime of one thread has no other thread that could spin, so `spinning` is not combined with it.
    """
    changes = [change for change in changes_of(candidate, (), CPUS) if change.of_runtime]
    if short:
        changes = [change for change in changes if change.subject == "threads"]
    subjects = [[None, *(c for c in changes if c.subject == subject)] for subject in {c.subject: 0 for c in changes}]
    for chosen in itertools.product(*subjects):
        made = changed_together(candidate, [change for change in chosen if change is not None])
        assert made is not None, "options of the runtime exclude nothing"
        if not (made.options.spinning and made.options.threads_of(CPUS) == 1):
            yield made
