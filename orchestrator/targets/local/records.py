"""The records in a deployment's folder: its permanent port, and what to start again after a reboot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.record import first_problem

__all__ = ["Endpoint", "Recipe"]


class _Kept(Strict):
    """A small JSON file in the deployment's folder.

    Attributes:
        FILE: its name.
        LOST: what happens when it is removed, which is the remedy for a damaged file.
        version: of the fields; another one is refused.
    """

    FILE: ClassVar[str]
    LOST: ClassVar[str]

    version: Literal[1] = 1

    def write(self, folder: Path) -> None:
        """Replace the file: after a crash it holds the old or the new content, whole.

        Raises:
            StoreFailed: the folder cannot be written.
        """
        write_atomic(folder / self.FILE, pretty_json(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return self.model_dump(mode="json")

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
                    remedy=f"remove the file and run `mlo apply` again; {cls.LOST}",
                )
            ) from error


class Endpoint(_Kept):
    """The public port; a deployment keeps it permanently."""

    FILE: ClassVar[str] = "endpoint.json"
    LOST: ClassVar[str] = "the deployment may get another port"

    port: Annotated[int, Field(ge=1, le=65535)]


class Recipe(_Kept):
    """The revision that takes the traffic: enough to start it again after a reboot.

    Attributes:
        revision: the number of the revision.
        backend: the backend's name in the table of backends.
        name: the model's name on the wire.
        serving: the rendered folder that the backend is started from.
        threads: threads of one model instance.
        startup_seconds: how long loading and warming up may take.
    """

    FILE: ClassVar[str] = "serving.json"
    LOST: ClassVar[str] = "the revision that the spec describes is started again"

    revision: int
    backend: str
    name: str
    serving: str
    threads: int
    startup_seconds: int
