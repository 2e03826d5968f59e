"""How fast a revision was when it was decided, from the decision that the store keeps."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.document import DocumentRefused
from orchestrator.artifacts.winner import Winner
from orchestrator.measure.side_by_side import Allowed
from orchestrator.store.store import Store

__all__ = ["Recorded", "allowed", "recorded"]

_MARGIN = 1.25
"""Times that equal servers may differ: pods are on other nodes, CPUs and caches, and the old one has more of the traffic."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A server as it was measured, seconds.

    Attributes:
        call: one call, the median.
        p99: under load, the 95 % confidence interval; the upper end is None if there were too few samples.
    """

    call: float | None
    p99: tuple[float, float | None] | None


def recorded(store: Store, decision_digest: str) -> Recorded | None:
    """What was measured of the winner; None if the store has no such decision any more.

    Args:
        store: where decisions are kept.
        decision_digest: sha256 of `winner.json`, which is beside the decision.
    """
    for key in store.receipts.all_keys():
        receipt = store.receipts.read(key)
        if receipt is None or receipt.step != "select" or receipt.manifest is None:
            continue
        winner = receipt.manifest.files.get(Winner.FILE)
        if winner is None or winner.sha256 != decision_digest:
            continue
        try:
            decision = Decision.read(store.trees.path(receipt.manifest.digest))
        except (FileNotFoundError, DocumentRefused):
            continue  # another decision for the same winner may be whole
        return _of_winner(decision)
    return None


def _of_winner(decision: Decision) -> Recorded | None:
    server = next((each.server for each in decision.candidates if each.fate == "won"), None)
    if server is None:
        return None
    loop = server.on_schedule
    return Recorded(server.over.call, None if loop is None else loop.p99_interval)


def allowed(new: Recorded | None, old: Recorded | None) -> Allowed:
    """How many times as long the new revision may take: as they differed when they were measured, and a quarter more.

    Where that is not known, and where the new one was measured as faster, equal times are expected.
    """
    call = p99 = 1.0
    if new is not None and old is not None:
        if new.call and old.call:
            call = max(1.0, new.call / old.call)
        if new.p99 is not None and old.p99 is not None and new.p99[1] is not None and old.p99[0] > 0:
            p99 = max(1.0, new.p99[1] / old.p99[0])
    return Allowed(_MARGIN * call, _MARGIN * p99)
