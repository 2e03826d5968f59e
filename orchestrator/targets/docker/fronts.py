"""Which fronts a deployment has: one, and two while its port changes; a new one takes over the routes of the former."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.containers.engine import EngineAddress
from orchestrator.errors import DeployFailed
from orchestrator.store.crash_points import crash_point
from orchestrator.targets.docker.drift import kept_of
from orchestrator.targets.docker.failures import refused
from orchestrator.targets.docker.front import (
    Published,
    create_front,
    front_image,
    order,
    published_by,
    start_front,
    state_of,
)
from orchestrator.targets.docker.marks import REVISION, Marks
from orchestrator.targets.docker.models import remove, stop_seconds
from orchestrator.targets.docker.observing import Found

__all__ = ["Fronts"]

_POLL_SECONDS = 0.1
_STARTUP_SECONDS = 15.0
_BASE = "org.opencontainers.image.base.name"


@dataclass(frozen=True, slots=True)
class Fronts:
    """The fronts of one deployment, through the API of its engine.

    Attributes:
        api: of the engine.
        engine: its address, for messages.
        marks: of the deployment.
        network: in which they find the revisions' containers.
        wanted: what is to be published once the traffic is switched; without gRPC, which the revision decides.
    """

    api: Any
    engine: EngineAddress
    marks: Marks
    network: str
    wanted: Published

    def for_revision(
        self, found: Found, revision: int, image: Mapping[str, Any], progress: Callable[[str], None], *, grpc: bool
    ) -> Mapping[str, Any]:
        """A running front that can try a revision: the one with the wanted port, or a new one.

        Args:
            found: what is there.
            revision: for which a new one is made.
            image: what the engine says about the model's image.
            progress: is called with what takes long.
            grpc: whether the revision answers gRPC.

        Raises:
            DeployFailed: E618 the port is in use, E642, E643, E645, E646.
        """
        fronts = [self._running(front) for front in found.fronts]
        # One with the same port and another form is replaced at the switch: both cannot have the port.
        same = next((each for each in fronts if published_by(each).port == self.wanted.port), None)
        if same is not None:
            return same
        state = None if found.front is None else state_of(self.api, found.front["Id"])
        if found.front is not None:
            made_of = str(found.front["Image"])
        else:
            base = (image["Config"]["Labels"] or {}).get(_BASE)
            if base is None:
                raise refused(f"the image has no label {_BASE}: mlo did not render it", self.engine)
            made_of = front_image(self.api, base, progress)
        progress(f"publishing port {self.wanted.port}")
        front = self._new(self._form(grpc=grpc), revision, state, made_of)
        return self._running(self.api.inspect_container(front))

    def settle(self, found: Found) -> tuple[str, ...]:
        """Leave one front, of the wanted form, once the traffic is switched; returns what the user should know.

        Args:
            found: what is there, with the revision that has the traffic.
        """
        wanted = self._form(grpc=found.live is not None and bool(kept_of(found.live).get("grpc")))
        right = next((each for each in found.fronts if published_by(each) == wanted), None)
        former = [each for each in found.fronts if each is not right]
        notes: tuple[str, ...] = ()
        if right is None:
            same = next((each for each in former if published_by(each).port == wanted.port), None)
            if same is None:
                return ()  # the port of a change that was given up: the next one settles it
            notes = (self._replace(same, wanted),)
            former.remove(same)
        for front in former:
            remove(self.api, front["Id"], stop_seconds=stop_seconds(found.live))
        return notes

    def leave_other_networks(self, found: Found) -> None:
        """Take fronts out of networks in which no revision is any more; the engine's default one leads to the published port."""
        for front in found.fronts:
            for name in front["NetworkSettings"]["Networks"]:
                if name not in (self.network, "bridge"):
                    self.api.disconnect_container_from_network(front["Id"], name)

    def _form(self, *, grpc: bool) -> Published:
        return Published(self.wanted.address, self.wanted.port, grpc, self.wanted.trial)

    def _new(self, what: Published, revision: int, state: bytes | None, image: str) -> str:
        front = create_front(self.api, self.marks, image, what, self.network, revision=revision, state=state)
        crash_point("docker.front-created")
        start_front(self.api, front, what)
        return front

    def _running(self, front: Mapping[str, Any]) -> Mapping[str, Any]:
        """The front, running, in the wanted network, and taking orders."""
        if not front["State"]["Running"]:
            start_front(self.api, front["Id"], published_by(front))
        elif front["State"]["Paused"]:
            self.api.unpause(front["Id"])
        if self.network not in front["NetworkSettings"]["Networks"]:
            self.api.connect_container_to_network(front["Id"], self.network, aliases=[self.marks.deployment])
        until = time.monotonic() + _STARTUP_SECONDS
        while True:
            try:
                order(self.api, front["Id"], "ping")
                return self.api.inspect_container(front["Id"])  # type: ignore[no-any-return]
            except DeployFailed:
                if time.monotonic() > until:
                    raise
                time.sleep(_POLL_SECONDS)

    def _replace(self, front: Mapping[str, Any], wanted: Published) -> str:
        """Put a front of another form at the same port; in between, connections are refused."""
        state, name = state_of(self.api, front["Id"]), front["Name"].removeprefix("/")
        began = time.monotonic()
        self.api.rename(front["Id"], f"{name}-former")
        self.api.stop(front["Id"], timeout=1)
        try:
            self._running(
                self.api.inspect_container(
                    self._new(wanted, int(front["Config"]["Labels"][REVISION]), state, front["Image"])
                )
            )
        except BaseException:
            self.api.rename(front["Id"], name)
            self.api.start(front["Id"])
            raise
        gap = time.monotonic() - began
        remove(self.api, front["Id"])
        return f"what is published at the port has changed, so connections were refused for {gap:.1f} s"
