"""Who changes a deployment, and which commit the spec is of; read from the system and from git, for the record."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.store.state import Change, Operation

__all__ = ["Reason", "change_now"]

_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a revision is to serve.

    Attributes:
        op: by an apply, or by a rollback.
        why: what makes it necessary.
        given: what the user says about it; empty if nothing.
        spec_file: whose commit is recorded; None for a rollback.
    """

    op: Operation
    why: str
    given: str = ""
    spec_file: Path | None = None


def change_now(reason: Reason) -> Change:
    """The record of a change that this process makes now."""
    commit, modified = (None, False) if reason.spec_file is None else _commit(reason.spec_file)
    return Change(
        op=reason.op,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        user=f"{_user()}@{os.uname().nodename}",
        commit=commit,
        modified=modified,
        why=f"{reason.why}: {reason.given}" if reason.given else reason.why,
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container that runs with any number
        return str(os.getuid())


def _commit(spec: Path) -> tuple[str | None, bool]:
    """The commit of the repository that a spec lies in, and whether the spec is another there."""
    commit = _git(spec.parent, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, False
    # Hashed as it is: a filter that the repository names would be a program of somebody else's.
    now = _git(spec.parent, "hash-object", "--no-filters", "--", spec.name)
    return commit, now is None or now != _git(spec.parent, "rev-parse", "--verify", f"HEAD:./{spec.name}")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it is not there, or refuses."""
    program = shutil.which("git")
    if program is None:
        return None
    # Without those of a hook that mlo is run from: they would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            [program, "-C", str(folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
