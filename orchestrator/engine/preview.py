"""What apply would do: every step with its status and the reason. Nothing is run and nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.plan.expand import expand
from orchestrator.plan.plan_file import SavedStep, StepStatus
from orchestrator.plan.resolve import Outcome, Resolver, blocked_message
from orchestrator.plan.step import Growth, Plan, Step
from orchestrator.release.live import Live

__all__ = ["Preview", "preview"]


@dataclass(frozen=True, slots=True)
class Preview:
    """A plan with the status of every step.

    Attributes:
        parts: step id → the parts of its key, where the key is known.
    """

    plan: Plan
    steps: tuple[SavedStep, ...]
    parts: Mapping[str, Mapping[str, Any]]

    @property
    def changes(self) -> bool:
        """Whether apply would do anything."""
        return any(step.status not in ("cached", "skipped", "=") for step in self.steps)


def preview(plan: Plan, resolver: Resolver, live: Live, *, forced: frozenset[str] = frozenset()) -> Preview:
    """Determine the status of every step.

    Args:
        plan: the plan.
        resolver: finds keys and results.
        live: what is deployed now.
        forced: ids of steps to run even if they are cached.
    """
    outcomes: dict[str, Outcome] = {}
    parts: dict[str, Mapping[str, Any]] = {}
    lines: dict[str, tuple[Step, SavedStep]] = {}
    while (step := next((each for each in plan.steps if each.id not in lines), None)) is not None:
        line = _live_view(step, outcomes, live) if step.live else _view(step, outcomes, parts, resolver, forced=forced)
        lines[step.id] = (step, line)
        grown = expand(plan, outcomes, resolver.trees)
        if grown is not plan:
            plan = grown
            resolver.follow(plan)
            current = {each.id: each for each in plan.steps}
            lines = {name: known for name, known in lines.items() if current.get(name) == known[0]}
    planned = [lines[step.id][1] for step in plan.steps]
    return Preview(plan, (*planned, *map(_growth_line, plan.growths)), parts)


def _growth_line(growth: Growth) -> SavedStep:
    waited = ", ".join(growth.after[:2]) + (f" and {len(growth.after) - 2} more" if len(growth.after) > 2 else "")
    return SavedStep(
        id=f"after {waited}",
        kind="growth",
        status="known after run",
        reason=f"{growth.adds}, once {waited} {'has' if len(growth.after) == 1 else 'have'} ended",
        key=None,
    )


def _line(step: Step, status: StepStatus, reason: str, key: str | None = None) -> SavedStep:
    return SavedStep(id=step.id, kind=step.kind, status=status, reason=reason, key=key)


def _view(
    step: Step,
    outcomes: dict[str, Outcome],
    parts: dict[str, Mapping[str, Any]],
    resolver: Resolver,
    *,
    forced: frozenset[str],
) -> SavedStep:
    if message := resolver.skipped_because(step, outcomes):
        outcomes[step.id] = Outcome("skipped", None, Diagnostic("E408", message, at=step.at))
        return _line(step, "skipped", message, None)
    resolved = resolver.resolve(step, outcomes, forced=step.id in forced)
    if resolved is None:
        unknown = sorted(p for p in step.producers if p not in outcomes)
        named = ", ".join(unknown[:2]) + (f" and {len(unknown) - 2} more" if len(unknown) > 2 else "")
        return _line(step, "known after run", f"depends on {named or 'the fates of the candidates'}", None)
    parts[step.id] = resolved.parts
    if resolved.outcome is not None:
        outcomes[step.id] = resolved.outcome
        reason = resolved.reason
        if resolved.outcome.error is not None:
            reason = f"failed before, and nothing it depends on has changed: {resolved.outcome.error.message}"
        return _line(step, resolved.status, reason, resolved.key)
    return _line(step, resolved.status, resolved.reason, resolved.key)


def _live_view(step: Step, outcomes: dict[str, Outcome], live: Live) -> SavedStep:
    rendered = outcomes.get("render")
    if rendered is not None and rendered.status != "done":
        return _line(step, "skipped", blocked_message("render", rendered))
    manifest = rendered.receipt.manifest if rendered is not None and rendered.receipt is not None else None
    status, reason = live.compare(manifest.digest if manifest is not None else None)
    if step.kind == "check":
        if status == "=":
            return _line(step, "=", "the golden requests were answered when it was deployed", None)
        return _line(step, status if status == "known after run" else "run", "after deploy", None)
    return _line(step, status, reason, None)
