"""Finds a deployment by the name that was given on the command line."""

from __future__ import annotations

import difflib

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["find_deployment"]


def find_deployment(store: Store, name: str) -> Deployment:
    """The deployment of that name.

    Raises:
        UsageError: there is none; says which there are.
    """
    known = store.state.read().deployments
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    if close:
        remedy = f"did you mean `{close[0]}`?"
    elif known:
        remedy = f"there are: {', '.join(sorted(known))}"
    else:
        remedy = f"nothing is deployed from {store.home.root}; run `mlo apply SPEC`, or set MLO_HOME to another store"
    raise UsageError(Diagnostic("E602", f"no deployment is called `{name}`", remedy=remedy))
