"""A plan as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.plan.plan_file import LiveStatus, SavedPlan
from orchestrator.visible import shown_line

__all__ = ["plan_text"]

_COLOURS = {"run": "yellow", "forced": "yellow", "+": "green", "~": "yellow", "skipped": "red"}
_WORDS = {"+": "+ create", "~": "~ change", "=": "= unchanged"}


def plan_text(plan: SavedPlan) -> str:
    """The plan as text."""
    rows = [
        (
            click.style(_WORDS.get(step.status, step.status), fg=_COLOURS.get(step.status)),
            step.id,
            step.reason,
        )
        for step in plan.steps
    ]
    parts = [
        f"{plan.name}: {plan.spec}",
        *_tensors(plan.signature),
        "",
        console.table(("status", "step", "reason"), rows),
    ]
    if plan.refused:
        refused = [(r.candidate, r.backend, r.reason) for r in plan.refused]
        parts += ["", "Ruled out:", console.table(("candidate", "backend", "reason"), refused)]
    if plan.notes:
        parts += ["", *(f"Note: {shown_line(note)}." for note in plan.notes)]
    parts += ["", _summary(plan), ""]
    return "\n".join(parts)


def _tensors(signature: Mapping[str, Any] | None) -> list[str]:
    """The inputs and outputs read from the model, in the terms of the spec."""
    if signature is None:
        return []
    rows = []
    for role in ("inputs", "outputs"):
        for tensor in signature[role]:
            own = signature["names"][role][tensor["name"]]
            shape = "known after run" if tensor["shape"] is None else f"[{', '.join(map(str, tensor['shape']))}]"
            other = "" if own == tensor["name"] else f"model's name: {own}"
            rows.append((role[:-1], tensor["name"], tensor["dtype"], shape, other))
    dims = ", ".join(
        f"{name} from {low} to {high}{_step(signature, name)}" for name, (low, high) in signature["dims"].items()
    )
    table = console.table(("read from model", "name", "dtype", "shape", ""), rows)
    return ["", table, *([f"with {dims}"] if dims else [])]


def _step(signature: Mapping[str, Any], dim: str) -> str:
    step = signature.get("multiples", {}).get(dim, 1)
    return "" if step == 1 else f" in steps of {step}"


def _summary(plan: SavedPlan) -> str:
    counts = Counter(step.status for step in plan.steps)
    if set(counts) <= {"cached", "skipped", "="}:
        failed = next((step.reason for step in plan.steps if step.kind == "render" and step.status == "skipped"), None)
        return "Plan: nothing to do." if failed is None else f"Plan: nothing to run or deploy: {failed}."
    parts = [
        f"{counts['cached']} cached",
        f"{counts['run'] + counts['forced']} to run",
        f"{counts['known after run']} known after run",
    ]
    live: tuple[tuple[LiveStatus, str], ...] = (("+", "create"), ("~", "change"))
    changes = [f"{counts[sign]} to {word}" for sign, word in live if counts[sign]]
    return f"Plan: {', '.join([*parts, *changes])}."
