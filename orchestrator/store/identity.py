"""The identity of a store: what marks things outside of it, such as containers, as its own."""

from __future__ import annotations

import re
from uuid import uuid4

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import write_atomic
from orchestrator.store.home import Home
from orchestrator.store.locks import lock

__all__ = ["store_identity"]

_LOCK_SECONDS = 60.0


def store_identity(home: Home) -> str:
    """32 hexadecimal digits, made at random when they are first asked for; a store that is moved keeps them.

    Raises:
        StoreFailed: E704 the file with it is damaged, or the store cannot be written.
        Busy: another command has been making it for a minute.
    """
    home.prepare()
    if not home.identity_file.exists():
        with lock(home.lock_file("identity"), timeout=_LOCK_SECONDS, info={"what": "naming the store"}):
            if not home.identity_file.exists():
                write_atomic(home.identity_file, f"{uuid4().hex}\n".encode())
    found = home.identity_file.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise StoreFailed(
            Diagnostic(
                "E704",
                f"{home.identity_file} is damaged",
                cause="it does not hold 32 hexadecimal digits",
                remedy="restore it from a backup; the containers of this store have it in their label `mlo.store`",
            )
        )
    return found
