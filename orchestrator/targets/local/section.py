"""The keys under `deploy:` for a server on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from orchestrator.targets.section import NO_CONTAINERS, DeploySection

__all__ = ["LocalDeploy"]


class LocalDeploy(DeploySection):
    """On this machine, on loopback."""

    starts_here: ClassVar[bool] = True
    checks_here: ClassVar[bool] = True
    replicated: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = NO_CONTAINERS

    target: Literal["local"] = "local"
    port: int | None = Field(
        default=None,
        ge=1024,
        le=65534,
        description="By default a free port, kept across updates; the next one is for gRPC.",
    )

    def claims(self, base: Path) -> Mapping[str, str]:
        """Its port, if it names one."""
        del base
        return {} if self.port is None else {"port": f"port {self.port} of this machine"}
