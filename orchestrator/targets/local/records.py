"""The record in a deployment's folder: its permanent port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.record import first_problem
from orchestrator.targets.local.ports import url_of

__all__ = ["Endpoint"]


class Endpoint(Strict):
    """The public port, in a small JSON file; a deployment keeps it permanently.

    Attributes:
        grpc_port: where gRPC is answered, the next port; None if it is not.
        tls: whether requests come over TLS.
        version: of the fields; another one is refused.
    """

    FILE: ClassVar[str] = "endpoint.json"

    version: Literal[1] = 1
    port: Annotated[int, Field(ge=1, le=65535)]
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: bool = False

    @property
    def url(self) -> str:
        """Where requests go."""
        return url_of(self.port, tls=self.tls)

    def write(self, folder: Path) -> None:
        """Replace the file: after a crash it holds the old or the new content, whole.

        Raises:
            StoreFailed: the folder cannot be written.
        """
        write_atomic(folder / self.FILE, pretty_json(self.model_dump(mode="json")))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What `write` left in `folder`; None where there is none.

        Raises:
            DeployFailed: E617 the file is damaged, or another version of mlo wrote it.
        """
        file = folder / cls.FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise DeployFailed(
                Diagnostic(
                    "E617",
                    f"{file} cannot be read",
                    cause=f"it is damaged, or another version of mlo wrote it: {first_problem(error)}",
                    remedy="remove the file and run `mlo apply` again; the deployment may get another port",
                )
            ) from error
