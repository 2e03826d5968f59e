"""A saved plan: plain JSON to be read in a pull request, applied exactly, or refused with what has moved since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StalePlan, UsageError
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.store.atomic import pretty_json, write_atomic

__all__ = ["FORMAT", "compose", "moved", "read_plan_file", "refuse_stale", "write_plan_file"]

_LEFT_ALONE = ("cached", "skipped", "=")
FORMAT = 2
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
    signature: Mapping[str, Any] | None,
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
        signature: the model's inputs, outputs and dims, where they were read from it; None where the spec says them.
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
        "signature": None if signature is None else dict(signature),
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
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise _no_plan(f"cannot read the plan {path}", cause) from error
    if not isinstance(document, dict) or not isinstance(document.get("plans"), list):
        raise _no_plan(f"{path} is not a saved plan", "it has no list of plans")
    if document.get("format") != FORMAT:
        raise UsageError(
            Diagnostic(
                "E211",
                f"{path} is a plan of format {document.get('format')}, and this mlo applies format {FORMAT}",
                remedy="plan again with this version",
            )
        )
    plans: list[Any] = document["plans"]
    if not plans:
        raise _no_plan(f"{path} is not a saved plan", "it holds no plan")
    for plan in plans:
        if not isinstance(plan, dict):
            raise _no_plan(f"{path} is not a saved plan", "it is damaged: plans")
        wrong = [name for name, kind in _MEMBERS.items() if not isinstance(plan.get(name), kind)]
        if wrong:
            raise _no_plan(f"{path} is not a saved plan", f"it is damaged: {', '.join(wrong)}")
        if not all(isinstance(step, dict) and step.keys() >= _STEP for step in plan["steps"]):
            raise _no_plan(f"{path} is not a saved plan", "it is damaged: steps")
    return plans


_MEMBERS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "spec": (str,),
    "environment": (str, type(None)),
    "platform": (str, type(None)),
    "spec_digest": (str,),
    "machine": (dict,),
    "deployed": (dict, type(None)),
    "signature": (dict, type(None)),
    "forced": (list,),
    "refused": (list,),
    "notes": (list,),
    "steps": (list,),
    "parts": (dict,),
}
_STEP = {"id", "kind", "status", "reason", "key"}


def _no_plan(message: str, cause: str) -> UsageError:
    return UsageError(Diagnostic("E210", message, cause=cause, remedy="write one with `mlo plan SPEC --out FILE`"))


def moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What has moved between a saved plan and the same plan made now, one line each.

    A step whose result has been computed meanwhile has not moved: its key is the same. One that was to be left alone and
    would run now has.
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
    statuses = {step["id"]: step for step in now["steps"]}
    for step in before["steps"]:
        again = statuses.get(step["id"])
        if again is not None and step["status"] in _LEFT_ALONE and again["status"] not in _LEFT_ALONE:
            lines.append(f"{step['id']} was {step['status']}, and is now {again['status']}: {again['reason']}")
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
