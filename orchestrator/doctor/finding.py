"""What one look at this machine brought: what is there, or what is missing and what that costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Status"]

Status = Literal["ok", "limited", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of `mlo doctor`.

    Attributes:
        name: what was looked at.
        status: `limited` is there, and less than it could be.
        found: what is there, or why it is not.
        costs: what cannot be done for want of it; empty when nothing is lost.
        remedy: what to do, one instruction.
        essential: whether nothing works without it.
    """

    name: str
    status: Status
    found: str
    costs: str = ""
    remedy: str = ""
    essential: bool = False

    @property
    def broken(self) -> bool:
        """Whether it is missing and nothing works without it."""
        return self.essential and self.status == "missing"

    def as_json(self) -> dict[str, Any]:
        """The form in `mlo doctor --json`."""
        return asdict(self)
