"""Where a deployment at a Docker Engine is: which engine, and where its port is published."""

from __future__ import annotations

from typing import ClassVar, Self

from orchestrator.containers.engine import EngineAddress
from orchestrator.spec.strict import Strict
from orchestrator.targets.placement import Placement

__all__ = ["DockerPlacement", "RecordedEngine"]


class RecordedEngine(Strict):
    """How the engine is reached; see `EngineAddress`. It has no secrets: certificates stay where they are.

    Attributes:
        id: that the engine gave itself; None until it was asked.
    """

    host: str
    context: str | None
    certificates: str | None
    verify: bool
    id: str | None

    @classmethod
    def of(cls, address: EngineAddress, identity: str | None) -> Self:
        """The record of an address."""
        return cls(
            host=address.host,
            context=address.context,
            certificates=address.certificates,
            verify=address.verify,
            id=identity,
        )

    @property
    def address(self) -> EngineAddress:
        """The address that was recorded."""
        return EngineAddress(self.host, self.context, self.certificates, self.verify)


class DockerPlacement(Placement):
    """An engine, and what is published there.

    Attributes:
        port: that the spec asks for; None for a free one.
        address: of the engine's machine.
        network: that the spec names; None for the deployment's own.
    """

    TARGET: ClassVar[str] = "docker"
    VERSION: ClassVar[int] = 1

    engine: RecordedEngine
    port: int | None
    address: str
    network: str | None
