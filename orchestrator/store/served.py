"""Which stores of this user serve which names on this machine, so that no name is served twice.

An entry is a file, `served/NAME/STORE.json` in the user's folder. It is believed only while the lock that it names is held, as it
is by the process that serves. Without a user's folder there are no entries, and every store is by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.digest import sha256_bytes
from orchestrator.store.failures import store_errors
from orchestrator.store.locks import is_held, lock
from orchestrator.store.record import Record
from orchestrator.store.user_folder import user_folder

__all__ = ["ServedName", "claim", "forget_served", "served_by_others"]

_LOCK_TIMEOUT = 120.0  # seconds; the holder starts a supervisor


class ServedName(Record):
    """A name that a store serves.

    Attributes:
        name: of the deployment.
        store: the store's folder.
        lock: the file whose lock is held as long as it is served.
    """

    name: str
    store: str
    lock: str

    @property
    def is_served(self) -> bool:
        """Whether its process lives."""
        return is_held(Path(self.lock))


@contextmanager
def claim(wanted: ServedName) -> Iterator[ServedName | None]:
    """Within the block no other store begins to serve this name. Gives the other store that serves it; None if none does.

    Raises:
        StoreFailed: the entry cannot be written.
        Busy: another store has been starting it for two minutes.
    """
    folder = _folder(wanted.name)
    if folder is None:
        yield None
        return
    with store_errors("create", folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock(folder / "claim.lock", timeout=_LOCK_TIMEOUT, info={"what": f"starting {wanted.name}"}):
        other = next(iter(served_by_others(Path(wanted.store), wanted.name)), None)
        if other is None:
            write_atomic(_file(folder, wanted.store), pretty_json(wanted.model_dump()))
        yield other


def served_by_others(store: Path, name: str | None = None) -> list[ServedName]:
    """What other stores of this user serve on this machine, sorted by name; entries of those that are gone are removed.

    Args:
        store: the folder of this one.
        name: only this name; None for all.
    """
    every, own = _folder(""), str(store.resolve())
    found = []
    for file in [] if every is None else sorted(every.glob("*/*.json")):
        if name is not None and file.parent.name != name:
            continue
        try:
            entry = ServedName.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # removed meanwhile, or not ours
            continue
        if not Path(entry.store).is_dir():
            with store_errors("remove", file):
                file.unlink(missing_ok=True)
        elif entry.store != own and entry.is_served:
            found.append(entry)
    return found


def forget_served(name: str, store: str) -> None:
    """Remove the entry of a store that no longer serves a name.

    Raises:
        StoreFailed: it cannot be removed.
    """
    folder = _folder(name)
    if folder is not None:
        file = _file(folder, store)
        with store_errors("remove", file):
            file.unlink(missing_ok=True)


def _folder(name: str) -> Path | None:
    user = user_folder()
    return None if user is None else user / "served" / name


def _file(folder: Path, store: str) -> Path:
    return folder / f"{sha256_bytes(store.encode())[:16]}.json"
