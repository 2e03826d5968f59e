"""What is known of the image of a decision's winner, and of how it starts, as people read it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from orchestrator.images.evidence import Sizes, image_of_decision, read_evidence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.store.receipts import Receipt
    from orchestrator.store.state import Deployment
    from orchestrator.store.store import Store

__all__ = ["decided_image", "deployed_image", "image_line", "measured_start"]

_WINNER, _DECISION = "winner.json", "decision.json"
"""Files of `select`, named here since importing their schemas would take longer than `mlo status` may."""


def decided_image(store: Store, selected: Path) -> str | None:
    """The image that was built of a decision's winner, a sentence without a full stop; None if none was.

    Args:
        store: from which it was built.
        selected: the output of `select`.
    """
    try:
        winner = (selected / _WINNER).read_bytes()
    except FileNotFoundError:  # nothing won
        return None
    known = image_of_decision(store.home.images, hashlib.sha256(winner).hexdigest())
    return None if known is None else image_line(known.image.reference, known.sizes.as_json())


def image_line(reference: str, sizes: Mapping[str, int]) -> str:
    """An image and its size, with where the numbers come from.

    Args:
        reference: what it is called.
        sizes: as `Sizes.as_json` writes them.
    """
    known = Sizes(sizes["total"], sizes["base"], sizes["model"])
    return f"{reference}, {known.text} (as the engine counted when it was built)"


def deployed_image(deployment: Deployment, revision: int, store: Store) -> dict[str, Any] | None:
    """The image of a revision as JSON; None for a target without images.

    Args:
        deployment: as the state records it.
        revision: one of its history.
        store: in which it is recorded.
    """
    image = next((each.image for each in deployment.history if each.revision == revision), None)
    if image is None:
        return None
    known = read_evidence(store.home.images, image)
    return {"reference": image.reference, "bytes": None if known is None else known.sizes.as_json()}


def measured_start(deployment: Deployment, revision: int, store: Store) -> float | None:
    """Seconds from the start of a revision's server until it was ready, as `benchmark.server` measured it.

    None if its server was not measured, or the store has lost the decision.

    Args:
        deployment: as the state records it.
        revision: one of its history.
        store: in which the decision is kept.
    """
    decided = next((each.decision_digest for each in deployment.history if each.revision == revision), None)
    selected = None if decided is None else _selected(deployment.name, decided, store)
    if selected is None:
        return None
    try:
        decision = json.loads((selected / _DECISION).read_bytes())
    except FileNotFoundError:  # the store has lost it
        return None
    servers = (each["server"] for each in decision["candidates"] if each["fate"] == "won")
    return next((float(server["ready_seconds"]) for server in servers if server is not None), None)


def _selected(name: str, decided: str, store: Store) -> Path | None:
    """Where the newest decision lies that had this winner: mostly the latest one under the name.

    Args:
        name: of the deployment.
        decided: sha256 of `winner.json`.
        store: in which decisions are kept.
    """

    def has_it(receipt: Receipt | None) -> bool:
        if receipt is None or receipt.step != "select" or receipt.manifest is None:
            return False
        winner = receipt.manifest.files.get(_WINNER)
        return winner is not None and winner.sha256 == decided

    latest = store.receipts.latest("select", name)
    if not has_it(latest):  # a later run decided something else, or nothing
        others = [receipt for key in store.receipts.all_keys() if has_it(receipt := store.receipts.read(key))]
        latest = max((each for each in others if each is not None), key=lambda each: each.started, default=None)
    return None if latest is None or latest.manifest is None else store.trees.path(latest.manifest.digest)
