"""Finds a deployment by the name given on the command line."""

from __future__ import annotations

import difflib

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["find_deployment"]


def find_deployment(store: Store, name: str) -> Deployment:
    """The deployment with this name.

    Raises:
        UsageError: it does not exist; lists those that do.
    """
    known = store.state.read().deployments
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    if close:
        remedy = f"did you mean `{close[0]}`?"
    elif known:
        remedy = f"deployed here: {', '.join(sorted(known))}"
    else:
        remedy = f"nothing is deployed from {store.home.root}; run `mlo apply SPEC`, or set MLO_HOME to another store"
    raise UsageError(Diagnostic("E602", f"there is no deployment `{name}`", remedy=remedy))
