"""What a step used of the user's code, as receipts keep it: files by their place, installed distributions by their record."""

from __future__ import annotations

from orchestrator.store.record import Record

__all__ = ["NO_USER_CODE", "UserCode"]


class UserCode(Record):
    """The code and the files that a step imported or read besides its inputs.

    Attributes:
        files: place → sha256. A place is relative to the project (`net.py`, `../config.json`), or is `@/acme/net.py` for a
            module that was found on the import path, in whichever folder of it.
        distributions: name and version of each installed distribution whose modules were imported → sha256 of its RECORD.
        found_in: top-level module → where the import path has it: `project`, `path`, or `nowhere` where another finder found
            it. A file that comes before it on the path would be imported instead.
    """

    files: dict[str, str]
    distributions: dict[str, str]
    found_in: dict[str, str]

    def digests(self) -> dict[str, str]:
        """Files and distributions, as parts of a key."""
        return {**self.files, **self.distributions}


NO_USER_CODE = UserCode(files={}, distributions={}, found_in={})
