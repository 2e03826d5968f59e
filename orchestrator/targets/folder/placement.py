"""Where a deployment into a folder is, and how many of its revisions stay there."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from orchestrator.targets.placement import Placement

__all__ = ["FolderPlacement"]


class FolderPlacement(Placement):
    """A folder.

    Attributes:
        path: absolute.
        versions: how many revisions stay, the newest ones and the one in use.
    """

    TARGET: ClassVar[str] = "folder"
    VERSION: ClassVar[int] = 1

    path: Annotated[str, Field(pattern="^/")]
    versions: Annotated[int, Field(ge=1)]
