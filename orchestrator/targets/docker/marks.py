"""What marks a container, network or image as one of mlo's: its name for people, its labels for mlo."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["DEPLOYMENT", "HOME", "KEPT", "REVISION", "ROLE", "STORE", "Marks", "Role", "revision_of"]

DEPLOYMENT, STORE, HOME, ROLE = "mlo.deployment", "mlo.store", "mlo.home", "mlo.role"
REVISION = "mlo.revision"
KEPT = "mlo.container"
"""The label with what the container was created from, as JSON; what differs later is drift."""

Role = Literal["front", "model", "network", "trial"]


@dataclass(frozen=True, slots=True)
class Marks:
    """The names and labels of one deployment.

    Attributes:
        deployment: its name.
        store: the identity of the store that it belongs to.
        home: where that store is, for messages to people who meet its containers.
    """

    deployment: str
    store: str
    home: str

    def network(self, *, egress: bool) -> str:
        """The name of the deployment's own network, with or without a way out."""
        return (
            f"mlo-{self.deployment}.out" if egress else f"mlo-{self.deployment}"
        )  # no deployment has a dot in its name

    def front(self, port: int) -> str:
        """The name of the container that publishes `port`."""
        return f"mlo-{self.deployment}-front-{port}"

    def model(self, revision: int) -> str:
        """The name of a revision's container."""
        return f"mlo-{self.deployment}-r{revision}"

    def labels(self, role: Role, revision: int | None = None, kept: Mapping[str, Any] | None = None) -> dict[str, str]:
        """The labels of something that is made.

        Args:
            role: what it is.
            revision: that it serves, or that it was made for.
            kept: what it was created from.
        """
        labels = {DEPLOYMENT: self.deployment, STORE: self.store, HOME: self.home, ROLE: role}
        if revision is not None:
            labels[REVISION] = str(revision)
        if kept is not None:
            labels[KEPT] = json.dumps(kept, sort_keys=True)
        return labels

    @property
    def own(self) -> dict[str, list[str]]:
        """The filter for what belongs to this deployment of this store."""
        return {"label": [f"{DEPLOYMENT}={self.deployment}", f"{STORE}={self.store}"]}

    @property
    def namesakes(self) -> dict[str, list[str]]:
        """The filter for what belongs to a deployment of this name, of any store."""
        return {"label": [f"{DEPLOYMENT}={self.deployment}"]}


def revision_of(container: str) -> int | None:
    """The revision that a model container's name ends with; None for other names."""
    found = re.search(r"-r([0-9]+)$", container)
    return int(found[1]) if found else None
