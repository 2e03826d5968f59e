"""Writes what is known of a variant beside its model file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.steps import StepContext

__all__ = ["write_facts"]


def write_facts(context: StepContext, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `facts.json` into the step's output; returns the facts, which are the step's summary too."""
    text = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (context.output / "facts.json").write_text(text, encoding="utf-8")
    return facts
