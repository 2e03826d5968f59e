"""A plan as a file: reviewed in a pull request, applied exactly, or refused with what has changed since."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StalePlan, UsageError
from orchestrator.optimize.variants import RefusedCandidate
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.record import first_problem

__all__ = [
    "FORMAT",
    "LiveStatus",
    "SavedDeployment",
    "SavedPlan",
    "SavedStep",
    "StepStatus",
    "changes",
    "read_plan_file",
    "refuse_stale",
    "write_plan_file",
]

_LEFT_ALONE = ("cached", "skipped", "=")
FORMAT: Literal[4] = 4
"""Rises when older plan files can no longer be applied."""

LiveStatus = Literal["+", "~", "=", "known after run"]
"""What apply would do with the deployment: create, change or leave it, or nobody knows before the steps have run."""

StepStatus = Literal["cached", "run", "forced", "skipped", LiveStatus]
"""What apply would do with a step."""


class SavedStep(Strict):
    """One line of a plan.

    Attributes:
        status: what apply would do with it.
        key: None while an input is not known.
    """

    id: str
    kind: str
    status: StepStatus
    reason: str
    key: str | None


class SavedDeployment(Strict):
    """What was deployed when the plan was made."""

    revision: int
    rendered_digest: str


class SavedPlan(Strict):
    """The plan of one spec.

    Attributes:
        name: the deployment.
        spec: absolute path of the spec.
        environment: the entry of `environments:` that it was loaded with.
        platform: absolute path of the platform file.
        spec_digest: of the effective spec.
        machine: fingerprint of the machine that it was made on.
        deployed: what was deployed; None if nothing was.
        signature: the model's inputs, outputs and dims, where they were read from it; None where the spec says them.
        forced: steps that `--replace` named.
        refused: the candidates that are not tried, with the reason.
        notes: what a reviewer should know.
        steps: in the order in which they run.
        parts: step id → the parts of its key, for steps whose key is known.
        compiled: step id → the parts of its key that results of other steps do not change, for all steps that the plan has
            before it grows.
        mlo: the version that made it.
    """

    name: str
    spec: str
    environment: str | None
    platform: str | None
    spec_digest: str
    machine: dict[str, Any]
    deployed: SavedDeployment | None
    signature: dict[str, Any] | None
    forced: tuple[str, ...]
    refused: tuple[RefusedCandidate, ...]
    notes: tuple[str, ...]
    steps: tuple[SavedStep, ...]
    parts: dict[str, dict[str, Any]]
    compiled: dict[str, dict[str, Any]]
    mlo: str = __version__


class _PlanFile(Strict):
    format: Literal[4] = FORMAT
    plans: tuple[SavedPlan, ...]


def write_plan_file(path: Path, plans: Sequence[SavedPlan]) -> None:
    """Write one or several plans into one file."""
    write_atomic(path, pretty_json(_PlanFile(plans=tuple(plans)).model_dump(mode="json")))


def read_plan_file(path: Path) -> tuple[SavedPlan, ...]:
    """The plans of a file.

    Raises:
        UsageError: it is not a plan, or has another version.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        cause = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise _no_plan(f"cannot read the plan {path}", cause) from error
    if not isinstance(document, dict) or not isinstance(document.get("plans"), list):
        raise _no_plan(f"{path} is not a saved plan", "it has no list of plans")
    if document.get("format") != FORMAT:
        raise UsageError(
            Diagnostic(
                "E211",
                f"{path} is a plan of format {document.get('format')}, but this version of mlo reads format {FORMAT}",
                remedy="plan again with this version: `mlo plan SPEC --out FILE`",
            )
        )
    try:
        plans = _PlanFile.model_validate_json(data).plans
    except ValidationError as error:
        raise _no_plan(f"{path} is not a saved plan", f"it is damaged: {first_problem(error)}") from error
    if not plans:
        raise _no_plan(f"{path} is not a saved plan", "it holds no plan")
    return plans


def _no_plan(message: str, cause: str) -> UsageError:
    return UsageError(Diagnostic("E210", message, cause=cause, remedy="write one with `mlo plan SPEC --out FILE`"))


def changes(before: SavedPlan, now: SavedPlan) -> list[str]:
    """What has changed between a saved plan and the same plan made now, one line each.

    A step whose result has been computed meanwhile has not changed: its key is the same. One that would not have run and
    would run now has changed. Steps by which a plan has grown meanwhile are not new, because results alone decide on them.
    """
    from orchestrator.plan.keys import differences  # noqa: PLC0415 - keys needs the store; reading a plan does not

    def deployed(plan: SavedPlan) -> dict[str, Any]:
        return {} if plan.deployed is None else plan.deployed.model_dump()

    def refused(plan: SavedPlan) -> dict[str, Any]:
        return {f"{row.candidate} on {row.backend}": row.reason for row in plan.refused}

    lines: list[str] = []
    if before.mlo != now.mlo:
        lines.append(f"mlo {before.mlo} → {now.mlo}")
    if before.spec_digest != now.spec_digest:
        lines.append(f"the spec {before.spec} has changed")
    lines += [f"machine: {line}" for line in differences(before.machine, now.machine)]
    lines += [f"deployed: {line}" for line in differences(deployed(before), deployed(now))]
    lines += [f"model: {line}" for line in differences(before.signature or {}, now.signature or {})]
    lines += [f"not tried: {line}" for line in differences(refused(before), refused(now))]
    lines += [f"a note is new: {note}" for note in now.notes if note not in before.notes]
    lines += [f"a note is gone: {note}" for note in before.notes if note not in now.notes]
    lines += [f"the step {step} is gone" for step in before.compiled if step not in now.compiled]
    lines += [f"the step {step} is new" for step in now.compiled if step not in before.compiled]
    for old, new in ((before.compiled, now.compiled), (before.parts, now.parts)):
        for step in old:
            if step in new:
                lines += [f"{step}: {line}" for line in differences(old[step], new[step])]
    again = {step.id: step for step in now.steps}
    lines += [
        f"{step.id} was {step.status}, and is now {again[step.id].status}: {again[step.id].reason}"
        for step in before.steps
        if step.id in again and step.status in _LEFT_ALONE and again[step.id].status not in _LEFT_ALONE
    ]
    return list(dict.fromkeys(lines))


def refuse_stale(path: Path, lines: Sequence[str]) -> None:
    """Raise if anything has changed.

    Raises:
        StalePlan: E212, names what has changed.
    """
    if lines:
        raise StalePlan(
            Diagnostic(
                "E212",
                f"the plan {path} is stale",
                cause="something that it was made from has changed since it was saved",
                remedy="plan again with `mlo plan SPEC --out FILE`, and review the new plan",
                notes=tuple(f"changed: {line}" for line in lines),
            )
        )
