"""Where a deployment for Git lies, and what was written there."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from orchestrator.targets.gitops.section import Writing
from orchestrator.targets.placement import Placement

__all__ = ["GitopsPlacement"]


class GitopsPlacement(Placement):
    """A folder in a repository.

    Attributes:
        path: absolute.
        writing: what the spec asks for, so that a rollback can write it again.
    """

    TARGET: ClassVar[str] = "gitops"
    VERSION: ClassVar[int] = 1

    path: Annotated[str, Field(pattern="^/")]
    writing: Writing
