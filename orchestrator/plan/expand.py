"""Lets a plan grow while it runs: rounds of a search add steps once it is known how earlier ones ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Plan

__all__ = ["expand", "held_back"]


def expand(plan: Plan, outcomes: Mapping[str, Outcome]) -> Plan:
    """The plan with the additions of every growth whose step is done.

    Pure: it reads outcomes alone, of which the store keeps receipts. So a run that is killed and started again expands to
    the same plan, and finds everything that was computed. Growths are applied in their order, each once, so that it
    does not matter which of two steps ends first. A growth may itself leave further growths: that is a round.

    Args:
        plan: as compiled, or as expanded before.
        outcomes: of the steps that have ended.

    Raises:
        ValueError: a growth changes or removes a step that does not come after the one that it waits for.
    """
    while plan.growths:
        first, *later = plan.growths
        outcome = outcomes.get(first.after)
        if outcome is None:
            return plan
        later_steps = _after(plan, first.after)
        before = {step.id: step for step in plan.steps if step.id not in later_steps}
        plan = replace(plan, growths=tuple(later))
        if outcome.status != "done" or outcome.receipt is None:
            continue
        plan = first.grow(plan, outcome.receipt.summary)
        steps = {step.id: step for step in plan.steps}
        if changed := [name for name, step in before.items() if steps.get(name) != step]:
            raise ValueError(f"the growth after {first.after} changes {changed[0]}, which does not come after it")
    return plan


def held_back(plan: Plan) -> frozenset[str]:
    """The ids of the steps that a growth may still change, and that therefore must wait for it."""
    return frozenset(step for growth in plan.growths for step in _after(plan, growth.after))


def _after(plan: Plan, step_id: str) -> set[str]:
    """The ids of the steps that depend on this one, directly or through others."""
    found = {step_id}
    for step in plan.steps:  # which are in an order in which they can run
        if step.gathers_fates or step.producers & found:
            found.add(step.id)
    return found - {step_id}
