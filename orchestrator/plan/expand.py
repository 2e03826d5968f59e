"""Lets a plan grow while it runs: rounds of a search add steps once it is known how earlier ones ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Failed, Growth, Plan, Step, Succeeded, Took
from orchestrator.store.trees import TreeStore

__all__ = ["expand", "held_back"]


def expand(plan: Plan, outcomes: Mapping[str, Outcome], trees: TreeStore) -> Plan:
    """The plan with the additions of every growth whose steps have ended.

    Pure: it reads outcomes and what steps left, of which the store keeps receipts. So a run that is killed and started again
    expands to the same plan, and finds everything that was computed. Growths are applied in their order, each once, and each
    sees only the steps that it waits for and those that these need, so that it does not matter which steps end first. A
    growth may itself leave further growths: that is a round.

    A refusal is an outcome like any other: the store keeps it, and the next run sees it again. A step that failed by chance
    (it crashed, took too long) is run again by the next run, and the plan then grows by how it ends that time.

    Args:
        plan: as compiled, or as expanded before.
        outcomes: of the steps that have ended.
        trees: where their outputs are.

    Raises:
        ValueError: a growth waits for a step that is not in the plan, changes or removes a step that does not come after
            those that it waits for, or leaves two steps of one id.
    """
    while plan.growths:
        first, *later = plan.growths
        present = {step.id for step in plan.steps}
        if unknown := [name for name in first.after if name not in present]:
            raise ValueError(f"a growth waits for {unknown[0]}, which is no step of the plan")
        if any(name not in outcomes for name in first.after):
            return plan
        later_steps = _after(plan, first)
        before = {step.id: step for step in plan.steps if step.id not in later_steps}
        needed = _needed(plan, first.after)
        seen = {name: _seen(outcomes[name], trees) for name in sorted(needed) if name in outcomes}
        plan = first.grow(replace(plan, growths=tuple(later)), seen)
        _check(plan, before, first)
    return plan


def held_back(plan: Plan) -> frozenset[str]:
    """The ids of the steps that a growth may still change, and that therefore must wait for it."""
    return frozenset(step for growth in plan.growths for step in _after(plan, growth))


def _seen(outcome: Outcome, trees: TreeStore) -> Succeeded | Failed:
    receipt = outcome.receipt
    took = (
        outcome.took if receipt is None else Took(datetime.fromisoformat(receipt.started).timestamp(), receipt.seconds)
    )
    if outcome.status == "done" and receipt is not None and receipt.manifest is not None and took is not None:
        return Succeeded(trees.path(receipt.manifest.digest), took)
    assert outcome.error is not None, "a step that is not done says why"
    return Failed(outcome.error, took)


def _check(plan: Plan, before: Mapping[str, Step], growth: Growth) -> None:
    """Whether the growth did not change steps that may have run already."""
    steps = {step.id: step for step in plan.steps}
    waited = ", ".join(growth.after)
    if changed := [name for name, step in before.items() if steps.get(name) != step]:
        raise ValueError(f"the growth after {waited} changes {changed[0]}, which does not come after it")
    if len(steps) < len(plan.steps):
        ids = [step.id for step in plan.steps]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"the growth after {waited} leaves two steps with the id {twice}")


def _after(plan: Plan, growth: Growth) -> set[str]:
    """The ids of the steps that depend on those that the growth waits for, without any that these need themselves."""
    found = set(growth.after)
    for step in plan.steps:  # which are in an order in which they can run
        if step.gathers_fates or step.producers & found:
            found.add(step.id)
    return found - _needed(plan, growth.after)


def _needed(plan: Plan, ids: Iterable[str]) -> set[str]:
    """These steps, and all that they need, directly or through others."""
    found = set(ids)
    for step in reversed(plan.steps):
        if step.id in found:
            found |= step.producers
            if step.gathers_fates:
                found |= {each.id for each in plan.steps if each.candidate is not None}
    return found
