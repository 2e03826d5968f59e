"""The keys under `deploy:` for a Docker Engine."""

# No `from __future__ import annotations`: pydantic evaluates annotations of names that are imported at run time.
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from orchestrator.targets.section import DeploySection

__all__ = ["DockerDeploy"]

_OWN_NETWORKS = frozenset({"bridge", "host", "none", "default"})
"""What every engine has, and what means one of them."""


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("expected an IP address, such as 127.0.0.1, 0.0.0.0 or 10.0.0.7") from None


def _network(name: str) -> str:
    if name in _OWN_NETWORKS:
        raise ValueError(
            f"expected a network that `docker network create` has made: in `{name}`, containers do not find each other by name"
        )
    return name


class DockerDeploy(DeploySection):
    """As containers of a Docker Engine."""

    takes_image: ClassVar[Literal["no", "built", "pushed"]] = "built"
    replicated: ClassVar[bool] = False
    ignores: ClassVar[frozenset[str]] = frozenset({"values.yaml", "compose.yaml", "chart", "README.md"})

    target: Literal["docker"]
    port: int | None = Field(
        default=None,
        ge=1,
        le=65534,
        description="The published port; by default a free one, kept across updates. The next one is for gRPC.",
    )
    address: Annotated[str, AfterValidator(_address)] = Field(
        default="127.0.0.1",
        description="The address of the engine's machine at which the port is published; 0.0.0.0 for all of them.",
        examples=["0.0.0.0"],  # noqa: S104 - an example of what a user may want
    )
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"), AfterValidator(_network)] | None = (
        Field(
            default=None,
            description="A network of the engine in which other containers reach the deployment by its name, at port 8080; by default"
            " its own, without a way out.",
            examples=["backend"],
        )
    )

    def claims(self, base: Path) -> Mapping[str, str]:
        """Its port, if it names one."""
        del base
        return {} if self.port is None else {"port": f"port {self.port} at {self.address} of the Docker Engine"}
