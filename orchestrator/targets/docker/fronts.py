"""Which fronts a deployment has: one, and two while its port changes; a new one takes over the routes of the former."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.containers.engine import EngineAddress
from orchestrator.errors import DeployFailed
from orchestrator.store.crash_points import crash_point
from orchestrator.targets.docker.failures import refused
from orchestrator.targets.docker.front import (
    Published,
    create_front,
    front_image,
    is_renewable,
    order,
    published_by,
    remove_after,
    state_of,
    wake,
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
        fronts = [self._running(front) for front in self._one_a_port(found)]
        # One with the same port and another form is replaced at the switch: both cannot have the port.
        same = next((each for each in fronts if published_by(each).port == self.wanted.port), None)
        if same is not None:
            self._image(same, image, progress)  # if it is to be renewed at the switch, it must be possible
            return same
        state = None if found.front is None else state_of(self.api, found.front["Id"])
        made_of = self._image(found.front, image, progress)
        progress(f"publishing port {self.wanted.port}")
        return self._new(self._form(grpc=grpc), revision, state, made_of)

    def _image(self, front: Mapping[str, Any] | None, image: Mapping[str, Any], progress: Callable[[str], None]) -> str:
        """The image for a front that follows `front`, from the base of the model's image if another program is needed."""
        if front is not None and not is_renewable(front):
            return str(front["Image"])
        base = (image["Config"]["Labels"] or {}).get(_BASE)
        if base is None:
            raise refused(f"the image has no label {_BASE}: mlo did not render it", self.engine)
        return front_image(self.api, base, progress)

    def publish(self, found: Found, image: Mapping[str, Any], *, grpc: bool) -> tuple[str, ...]:
        """Have a running front of the wanted form, before the traffic is switched; returns what the user should know.

        Args:
            found: what is there.
            image: what the engine says about the model's image.
            grpc: whether the revision that is to have the traffic answers gRPC.

        Raises:
            DeployFailed: E618 a port is in use, E645 the image of a new front cannot be built, E643 the engine cannot publish it; the former front publishes as before.
        """
        fronts, wanted = self._one_a_port(found), self._form(grpc=grpc)
        same = next((each for each in fronts if published_by(each).port == wanted.port), None)
        if same is None:
            return ()  # the port of a change that was given up: the next one settles it
        if published_by(same) != wanted or is_renewable(same):
            why = (
                "the front is renewed" if published_by(same) == wanted else "what is published at the port has changed"
            )
            gap = self._replace(same, wanted, self._image(same, image, lambda _: None))
            return (f"{why}, so connections were refused for {gap:.1f} s",)
        wake(self.api, same)
        if _name(same) != (name := self.marks.front(wanted.port)):
            self.api.rename(same["Id"], name)  # a run died while it replaced it
        return ()

    def settle(self, found: Found, *, grpc: bool) -> None:
        """Leave one front, of the wanted form, once the traffic is switched.

        Args:
            found: what is there.
            grpc: whether the revision that has the traffic answers gRPC.
        """
        wanted = self._form(grpc=grpc)
        if all(published_by(each) != wanted for each in found.fronts):
            return
        for front in found.fronts:
            if published_by(front) != wanted:
                remove(self.api, front["Id"], stop_seconds=stop_seconds(found.live))

    def leave_other_networks(self, found: Found) -> None:
        """Take fronts out of networks in which no revision is any more; the engine's default one leads to the published port."""
        for front in found.fronts:
            for name in front["NetworkSettings"]["Networks"]:
                if name not in (self.network, "bridge"):
                    self.api.disconnect_container_from_network(front["Id"], name)

    def _form(self, *, grpc: bool) -> Published:
        return Published(self.wanted.address, self.wanted.port, grpc, self.wanted.trial)

    def _new(self, what: Published, revision: int, state: bytes | None, image: str) -> Mapping[str, Any]:
        """A new front, running."""
        front = create_front(self.api, self.marks, image, what, self.network, revision=revision, state=state)
        crash_point("docker.front-created")
        try:
            return self._running(self.api.inspect_container(front))
        except BaseException as error:
            remove_after(error, self.api, front)
            raise

    def _one_a_port(self, found: Found) -> list[Mapping[str, Any]]:
        """The fronts of which each has a port of its own; of two at one port, one was left by a run that died, and is removed.

        The one that runs is the right one. If none does, the newer one is: it was complete when the older one was stopped.
        """
        kept: dict[int, Mapping[str, Any]] = {}
        for front in found.fronts:
            if published_by(front).port in kept:
                remove(self.api, front["Id"])
            else:
                kept[published_by(front).port] = front
        return list(kept.values())

    def _running(self, front: Mapping[str, Any]) -> Mapping[str, Any]:
        """The front, running, in the wanted network, and taking orders."""
        wake(self.api, front)
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

    def _replace(self, front: Mapping[str, Any], wanted: Published, image: str) -> float:
        """Put another front at the same port; returns for how many seconds connections were refused.

        The new one is complete before the former one is stopped, so that whoever dies in between leaves one to be started.
        """
        name = self.marks.front(wanted.port)
        if _name(front) == name:
            self.api.rename(front["Id"], f"{name}-former")
        new: str | None = None
        try:
            state, revision = state_of(self.api, front["Id"]), int(front["Config"]["Labels"][REVISION])
            new = create_front(self.api, self.marks, image, wanted, self.network, revision=revision, state=state)
            crash_point("docker.front-replacing")
            began = time.monotonic()
            self.api.stop(front["Id"], timeout=1)
            crash_point("docker.front-stopped")
            self._running(self.api.inspect_container(new))
        except BaseException as error:
            if new is not None:
                remove_after(error, self.api, new)
            self._bring_back(front, name, error)
            raise
        gap = time.monotonic() - began
        remove(self.api, front["Id"])
        return gap

    def _bring_back(self, front: Mapping[str, Any], name: str, error: BaseException) -> None:
        """Let a front publish again that could not be replaced because of `error`, which stays the one to show."""
        try:
            self.api.rename(front["Id"], name)
            self._running(self.api.inspect_container(front["Id"]))
        except Exception as second:  # noqa: BLE001 - the engine may have gone away, which the first error says
            error.add_note(f"starting the former front again also failed: {second}")


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Name"].removeprefix("/"))
