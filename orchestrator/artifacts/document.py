"""The base of all documents: a JSON file with the name and version of its schema; any other schema is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Document", "DocumentRefused"]

_SHOWN_PROBLEMS = 3


class DocumentRefused(StoreFailed):
    """A document is missing, damaged, or was written by another version of mlo."""


class Document(Strict):
    """A document that one step writes and others read.

    The file has the fields and two more keys, `document` and `version`. Raise VERSION whenever a field is added, removed or
    changes its meaning: a document of another version is refused.

    Attributes:
        NAME: of the schema, as in `docs/schemas/documents/NAME.schema.json`.
        VERSION: of the schema.
        FILE: name of the file in the step's output folder.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    FILE: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, with the name and version of the schema."""
        return {"document": self.NAME, "version": self.VERSION, **self.model_dump(mode="json")}

    def as_bytes(self) -> bytes:
        """The content of the file; the same value gives the same bytes."""
        return pretty_json(self.as_json())

    def write(self, folder: Path) -> None:
        """Write the document's file into `folder`, the output of a step."""
        (folder / self.FILE).write_bytes(self.as_bytes())

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The document in `folder`.

        Raises:
            DocumentRefused: E714, it is missing, damaged, or has another schema.
        """
        return cls.read_file(folder / cls.FILE)

    @classmethod
    def read_file(cls, file: Path) -> Self:
        """The document in `file`, whatever the file is called; see `read`."""
        try:
            data = file.read_bytes()
        except OSError as error:
            raise cls._refused(str(file), (error.strerror or str(error)).lower()) from error
        return cls.from_bytes(data, str(file))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """The document that `as_bytes` made.

        Args:
            data: the content of the file.
            where: its name in messages, such as its path.

        Raises:
            DocumentRefused: E714, it is damaged, or has another schema.
        """
        try:
            fields = json.loads(data)
        except ValueError as error:
            raise cls._refused(where, f"it is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise cls._refused(where, "it is not a JSON object")
        found = fields.pop("document", None), fields.pop("version", None)
        if found != (cls.NAME, cls.VERSION):
            raise cls._refused(
                where, f"it is {_shown(*found)}, but this version of mlo reads {_shown(cls.NAME, cls.VERSION)}"
            )
        try:
            # Validate as JSON, where arrays become tuples; lists of Python would be refused as tuples.
            return cls.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            raise cls._refused(where, _problems(error)) from error

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of the file."""
        schema = cls.model_json_schema(mode="serialization")
        header = {"document": {"const": cls.NAME}, "version": {"const": cls.VERSION}}
        schema["properties"] = header | schema["properties"]
        schema["required"] = [*schema["properties"]]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    @classmethod
    def _refused(cls, where: str, cause: str) -> DocumentRefused:
        return DocumentRefused(
            Diagnostic(
                "E714",
                f"cannot read {where} as the document `{cls.NAME}`",
                cause=cause,
                remedy="run `mlo apply SPEC --replace STEP` with the step that wrote it; `mlo plan SPEC` lists the steps",
            )
        )


def _shown(name: object, version: object) -> str:
    return f"version {version} of `{name}`" if name is not None else "not a document of mlo"


def _problems(error: ValidationError) -> str:
    """The first few problems, each with the path of the key."""
    problems = error.errors(include_url=False)
    shown = [f"{'.'.join(map(str, p['loc']))}: {p['msg'].lower()}" for p in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        shown.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return "; ".join(shown)
