"""Finds a deployment by the name given on the command line, and says what takes its traffic besides the live revision."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.store.receipts import Receipt
from orchestrator.store.served import served_by_others
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["beside_text", "find_deployment", "is_name", "latest_decision"]

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


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


def is_name(what: str, store: Store) -> bool:
    """Whether an argument that is a name or a spec is a name.

    A folder of that name is no spec. A file is one, unless something was decided under its name: then `./NAME` is the file.
    """
    if _NAME.fullmatch(what) is None:
        return False
    return not Path(what).is_file() or store.receipts.latest("select", what) is not None


def beside_text(canary: Mapping[str, Any]) -> str:
    """A canary in progress, or what is left of one.

    Args:
        canary: `orchestrator.targets.target.Beside` as JSON.
    """
    share = f"{canary['share']:.0%} of the traffic ({canary['how']})"
    return (
        f"revision {canary['revision']} takes {share} as a canary; if no `mlo apply` runs, the next one takes it back"
    )


def latest_decision(store: Store, name: str, command: str) -> Receipt:
    """The receipt of the latest decision under a name, whether it was deployed or nothing won; it has a manifest.

    Args:
        store: in which it is kept.
        name: from the spec's metadata.
        command: that asks, for the remedy.

    Raises:
        UsageError: E602, nothing was decided under that name in this store.
    """
    receipt = store.receipts.latest("select", name)
    if receipt is None or receipt.manifest is None:
        raise UsageError(
            Diagnostic(
                "E602",
                f"nothing is decided under the name `{name}`",
                cause=f"the store is {store.home.root}",
                remedy=f"give a spec, as in `mlo {command} {name}.yaml`; or run the command in the repository of the deployment",
            )
        )
    return receipt
