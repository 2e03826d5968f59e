"""A saved plan: plain JSON to be read in a pull request, applied exactly, or refused with what has moved since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StalePlan, UsageError
from orchestrator.plan.machine import fingerprint
from orchestrator.store.atomic import pretty_json, write_atomic

__all__ = ["FORMAT", "compose", "moved", "read_plan_file", "refuse_stale", "write_plan_file"]

FORMAT = 1
"""Rises when a plan file of before can no longer be applied."""


def compose(
    *,
    spec: str,
    environment: str | None,
    platform: str | None,
    spec_digest: str,
    name: str,
    steps: Sequence[Mapping[str, Any]],
    refused: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    parts: Mapping[str, Mapping[str, Any]],
    forced: Sequence[str],
    deployed: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The document.

    Args:
        spec: absolute path of the spec.
        environment: the entry of `environments:` that it was loaded with.
        platform: absolute path of the platform file.
        spec_digest: of the effective spec.
        name: the deployment.
        steps: as in `mlo plan --json`.
        refused: the candidates that are not tried, with the reason.
        notes: what a reviewer should know.
        parts: step id → the parts of its key, for steps whose key is known.
        forced: steps that `--replace` named.
        deployed: revision and digest of what was deployed when the plan was made; None if nothing was.
    """
    return {
        "format": FORMAT,
        "mlo": __version__,
        "name": name,
        "spec": spec,
        "environment": environment,
        "platform": platform,
        "spec_digest": spec_digest,
        "machine": fingerprint(),
        "deployed": deployed,
        "forced": list(forced),
        "refused": list(refused),
        "notes": list(notes),
        "steps": list(steps),
        "parts": {step: dict(p) for step, p in parts.items()},
    }


def write_plan_file(path: Path, documents: Sequence[Mapping[str, Any]]) -> None:
    """Write one or several plans into one file."""
    write_atomic(path, pretty_json({"format": FORMAT, "plans": list(documents)}))


def read_plan_file(path: Path) -> list[dict[str, Any]]:
    """The plans of a file.

    Raises:
        UsageError: it is no plan, or one of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            Diagnostic(
                "E210", f"cannot read the plan {path}", cause=str(error), remedy="write one with `mlo plan --out FILE`"
            )
        ) from error
    if not isinstance(document, dict) or "plans" not in document:
        raise UsageError(
            Diagnostic("E210", f"{path} is not a saved plan", remedy="write one with `mlo plan SPEC --out FILE`")
        )
    if document.get("format") != FORMAT:
        raise UsageError(
            Diagnostic(
                "E211",
                f"{path} is a plan of format {document.get('format')}, and this mlo applies format {FORMAT}",
                remedy="plan again with this version",
            )
        )
    plans: list[dict[str, Any]] = document["plans"]
    return plans


def moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has moved between a saved plan and the same plan made now, one line each.

    A step whose result has been computed meanwhile has not moved: its key is the same.
    """
    from orchestrator.plan.keys import differences  # noqa: PLC0415 - keys needs the store; reading a plan does not

    lines: list[str] = []
    if before["spec_digest"] != now["spec_digest"]:
        lines.append(f"the spec {before['spec']} has changed")
    lines += [f"machine: {line}" for line in differences(before["machine"], now["machine"])]
    if before["deployed"] != now["deployed"]:
        lines += [f"deployed: {line}" for line in differences(before["deployed"] or {}, now["deployed"] or {})]
    for step, parts in before["parts"].items():
        if step in now["parts"]:
            lines += [f"{step}: {line}" for line in differences(parts, now["parts"][step])]
    return lines


def refuse_stale(path: Path, lines: Sequence[str]) -> None:
    """Raise if anything has moved.

    Raises:
        StalePlan: naming what moved.
    """
    if lines:
        raise StalePlan(
            Diagnostic(
                "E212",
                f"the plan {path} is stale",
                cause="what it was made from has moved since",
                remedy="plan again and review the new plan",
                notes=tuple(f"moved: {line}" for line in lines),
            )
        )
