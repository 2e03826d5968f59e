"""Finds a deployment by the name given on the command line."""

from __future__ import annotations

import difflib
import shlex

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.store.served import served_by_others
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
    others = served_by_others(store.home.root, name)
    close = difflib.get_close_matches(name, known, 1)
    if others:
        remedy = (
            f"another store serves it: MLO_HOME={shlex.quote(others[0].store)}, or run the command in its repository"
        )
    elif close:
        remedy = f"did you mean `{close[0]}`?"
    elif known:
        remedy = f"deployed here: {', '.join(sorted(known))}"
    else:
        remedy = "nothing is deployed from it; run `mlo apply SPEC`, or the command in another repository"
    raise UsageError(
        Diagnostic("E602", f"there is no deployment `{name}`", cause=f"the store is {store.home.root}", remedy=remedy)
    )
