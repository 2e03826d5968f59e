"""The result of one check of this machine: what is available, or what is missing and what that affects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "limited", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of `mlo doctor`.

    Attributes:
        name: what was checked.
        status: `limited` means available with restrictions.
        found: what is available, or why it is not.
        costs: what does not work without it; empty if nothing is affected.
        remedy: what to do, one instruction.
        essential: whether mlo cannot work without it.
    """

    name: str
    status: Status
    found: str
    costs: str = ""
    remedy: str = ""
    essential: bool = False

    @property
    def broken(self) -> bool:
        """Whether it is missing and mlo cannot work without it."""
        return self.essential and self.status == "missing"

    def as_json(self) -> dict[str, Any]:
        """The form in `mlo doctor --json`."""
        return asdict(self)
