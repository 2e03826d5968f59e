"""The keys under `deploy:` for a folder that a device or your own server reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.spec.types import RelPath
from orchestrator.targets.section import NO_CONTAINERS, DeploySection

__all__ = ["FolderDeploy"]


class FolderDeploy(DeploySection):
    """Into a folder that a device or your own server reads."""

    takes_unserved: ClassVar[bool] = True
    checks_here: ClassVar[bool] = True
    ignores: ClassVar[frozenset[str]] = NO_CONTAINERS

    target: Literal["folder"]
    path: RelPath = Field(description="The folder, relative to the spec.", examples=["deployed"])
    versions: int = Field(
        default=2,
        ge=1,
        le=10,
        description="How many of the newest revisions to keep; TensorFlow Serving serves all of them.",
    )

    def claims(self, base: Path) -> Mapping[str, str]:
        """Its folder."""
        return {"path": f"the folder {(base / self.path).resolve()}"}
