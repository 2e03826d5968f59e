"""The base of every `server.json` that mlo renders, and reads again when it starts a server: frozen, strict, with a version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import ValidationError, field_serializer

from orchestrator.backends.folder import json_text, write_file
from orchestrator.spec.signature import Signature
from orchestrator.spec.strict import Strict
from orchestrator.store.record import first_problem

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.backends.backend import ServingSettings

__all__ = ["Labels", "ServedModel", "ServerJson"]


class Labels(Strict):
    """Where the model comes from; the metrics have it too."""

    variant: str
    model_digest: str
    decision_digest: str

    @classmethod
    def of(cls, settings: ServingSettings) -> Self:
        """The labels of what is rendered."""
        return cls(
            variant=settings.variant,
            model_digest=settings.model_digest,
            decision_digest=settings.decision_digest,
        )


class ServedModel(Strict):
    """The model of a folder: its name on the wire, its signature and its labels."""

    name: str
    signature: Signature
    labels: Labels

    @field_serializer("signature")
    def _without_defaults(self, signature: Signature) -> dict[str, Any]:
        return signature.as_json()


class ServerJson(Strict):
    """What a `server.json` of any backend has.

    Raise the number in `format` whenever a key is added, removed or changes its meaning: a file of another format, such as
    an older mlo rendered, is refused where it is read, as in a rollback. Keys without a value are left out.
    """

    FILE: ClassVar[str] = "server.json"

    format: Literal[2] = 2

    def write(self, folder: Path) -> None:
        """Write it into a serving folder."""
        document = {key: value for key, value in self.model_dump(mode="json").items() if value is not None}
        write_file(folder / self.FILE, json_text(document))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The one in a serving folder.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or has another format.
        """
        content = (folder / cls.FILE).read_bytes()
        document: Any = json.loads(content)
        known = cls.model_fields["format"].default
        found = document.get("format") if isinstance(document, dict) else None
        if found != known:
            has = "has no format" if found is None else f"has the format {found}"
            raise ValueError(f"{cls.FILE} {has}, but this version of mlo reads format {known}")
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise ValueError(f"{cls.FILE} is damaged: {first_problem(error)}") from error
