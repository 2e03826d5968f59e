"""The base of every target's placement: the typed value behind the state's record."""

from __future__ import annotations

import json
from typing import ClassVar, Self

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.record import first_problem
from orchestrator.store.state import PlacementRecord

__all__ = ["Placement"]


class Placement(Strict):
    """Where a target keeps a deployment: all that it needs to find it again.

    Attributes:
        TARGET: the target's name in the spec.
        VERSION: of the fields; raise it when one is added, removed or changes its meaning.
    """

    TARGET: ClassVar[str]
    VERSION: ClassVar[int]

    def record(self) -> PlacementRecord:
        """What the state keeps; `of` reads it back."""
        return PlacementRecord(target=self.TARGET, version=self.VERSION, settings=self.model_dump(mode="json"))

    @classmethod
    def of(cls, record: PlacementRecord) -> Self:
        """What `record` made.

        Raises:
            StoreFailed: E704 the settings are damaged, E705 they have another version.
        """
        if record.target != cls.TARGET:
            raise ValueError(f"{record.target} is not {cls.TARGET}")
        if record.version != cls.VERSION:
            age = "a newer" if record.version > cls.VERSION else "an older"
            raise StoreFailed(
                Diagnostic(
                    "E705",
                    f"{age} version of mlo wrote the placement of the target `{cls.TARGET}` in the state",
                    cause=f"it has version {record.version}, but this version of mlo reads version {cls.VERSION}",
                    remedy="use the version of mlo that deployed it",
                )
            )
        try:
            return cls.model_validate_json(json.dumps(record.settings))
        except ValidationError as error:
            raise StoreFailed(
                Diagnostic(
                    "E704",
                    f"the placement of the target `{cls.TARGET}` in the state cannot be read",
                    cause=first_problem(error),
                    remedy="restore the state from a backup",
                )
            ) from error
