"""A plan as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.cli.visible import shown_line

__all__ = ["plan_text"]

_COLOURS = {"run": "yellow", "forced": "yellow", "+": "green", "~": "yellow", "-": "red", "skipped": "red"}
_WORDS = {"+": "+ create", "~": "~ change", "-": "- remove", "=": "= unchanged"}


def plan_text(document: Mapping[str, Any]) -> str:
    """The plan document of `plan_file.compose` as text."""
    rows = [
        (
            click.style(_WORDS.get(step["status"], step["status"]), fg=_COLOURS.get(step["status"])),
            step["id"],
            step["reason"],
        )
        for step in document["steps"]
    ]
    parts = [
        f"{document['name']}: {document['spec']}",
        *_tensors(document["signature"]),
        "",
        console.table(("status", "step", "reason"), rows),
    ]
    if document["refused"]:
        refused = [(r["variant"], r["backend"], r["reason"]) for r in document["refused"]]
        parts += ["", "Ruled out:", console.table(("variant", "backend", "reason"), refused)]
    if document["notes"]:
        parts += ["", *(f"Note: {shown_line(note)}." for note in document["notes"])]
    parts += ["", _summary(document), ""]
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
    dims = ", ".join(f"{name} from {low} to {high}" for name, (low, high) in signature["dims"].items())
    table = console.table(("read from model", "name", "dtype", "shape", ""), rows)
    return ["", table, *([f"with {dims}"] if dims else [])]


def _summary(document: Mapping[str, Any]) -> str:
    counts = Counter(step["status"] for step in document["steps"])
    if set(counts) <= {"cached", "skipped", "="}:
        return "Plan: nothing to do."
    parts = [
        f"{counts['cached']} cached",
        f"{counts['run'] + counts['forced']} to run",
        f"{counts['known after run']} known after run",
    ]
    changes = [
        f"{counts[sign]} to {word}"
        for sign, word in (("+", "create"), ("~", "change"), ("-", "remove"))
        if counts[sign]
    ]
    return f"Plan: {', '.join([*parts, *changes])}."
