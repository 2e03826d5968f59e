"""Where a local deployment is: in its store's folder for that name, so nothing else is stored."""

from __future__ import annotations

from typing import ClassVar

from orchestrator.targets.placement import Placement

__all__ = ["LocalPlacement"]


class LocalPlacement(Placement):
    """This machine; the deployment's folder keeps the port."""

    TARGET: ClassVar[str] = "local"
    VERSION: ClassVar[int] = 1
