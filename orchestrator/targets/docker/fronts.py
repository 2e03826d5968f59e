"""Which fronts a deployment has: one, and two while its port changes; a new one takes over the routes of the former."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from orchestrator.containers.engine import EngineAddress
from orchestrator.errors import DeployFailed
from orchestrator.store.crash_points import crash_point
from orchestrator.targets.docker.failures import refused, undo
from orchestrator.targets.docker.front import (
    CANDIDATE,
    CANDIDATE_TLS,
    Published,
    create_front,
    order,
    published_by,
    routes_of,
    state_of,
    switched,
    try_ports,
    wake,
)
from orchestrator.targets.docker.front_image import FrontImages
from orchestrator.targets.docker.marks import REVISION, Marks
from orchestrator.targets.docker.models import remove, stop_seconds
from orchestrator.targets.docker.observing import Found, drift
from orchestrator.targets.docker.standby import standing_by

__all__ = ["Fronts"]

_POLL_SECONDS = 0.1
_STARTUP_SECONDS = 15.0
_QUIET_SECONDS = 10.0
_CUT_SECONDS = 1
"""How long requests may take that are under way when a front is stopped; new connections are refused meanwhile."""
_BASE = "org.opencontainers.image.base.name"
_STARTING = "starting the former front again"


@dataclass(frozen=True, slots=True)
class Fronts:
    """The fronts of one deployment, through the API of its engine.

    Attributes:
        api: of the engine.
        engine: its address, for messages.
        marks: of the deployment.
        network: in which they find the revisions' containers.
        wanted: what is to be published once the traffic is switched; without gRPC and TLS, which the revision decides.
        images: that fronts are made of.
    """

    api: Any
    engine: EngineAddress
    marks: Marks
    network: str
    wanted: Published
    images: FrontImages

    def for_revision(
        self,
        found: Found,
        revision: int,
        image: Mapping[str, Any],
        progress: Callable[[str], None],
        *,
        grpc: bool,
        tls: bool,
    ) -> Mapping[str, Any]:
        """A running front that can try a revision: the one with the wanted port, or a new one.

        Args:
            found: what is there.
            revision: for which a new one is made.
            image: what the engine says about the model's image.
            progress: is called with what takes long.
            grpc: whether the revision answers gRPC.
            tls: whether the revision takes requests over TLS.

        Raises:
            DeployFailed: E618 the port is in use, E642, E643 such as for an address that the machine does not have, E645, E646.
        """
        fronts = [self._running(front) for front in self._one_a_port(found)]
        # One with the same port and another form is replaced at the switch: both cannot have the port.
        same = next((each for each in fronts if published_by(each).port == self.wanted.port), None)
        if same is not None:
            # What is to be done at the switch must be possible.
            made_of, form = self._image(same, image, progress), self._form(grpc=grpc, tls=tls)
            if (new := form.besides(published_by(same))) and same["State"]["Running"]:
                try_ports(self.api, self.marks, made_of, new)
            return self._with(CANDIDATE_TLS if tls else CANDIDATE, same, made_of, progress)
        state = None if found.front is None else state_of(self.api, found.front["Id"])
        made_of = self._image(found.front, image, progress)
        progress(f"publishing port {self.wanted.port}")
        return self._new(self._form(grpc=grpc, tls=tls), revision, state, made_of)

    def _with(
        self, port: str, front: Mapping[str, Any], image: str, progress: Callable[[str], None]
    ) -> Mapping[str, Any]:
        """The front, or its successor with the port at which a revision is tried: somebody may have created it anew without."""
        if (front["HostConfig"]["PortBindings"] or {}).get(port):
            return front
        gap = self._replace(front, published_by(front), image)
        progress(f"the front is renewed, so connections were refused for {gap:.1f} s")
        return self.api.inspect_container(self.marks.front(self.wanted.port))  # type: ignore[no-any-return]

    def _image(self, front: Mapping[str, Any] | None, image: Mapping[str, Any], progress: Callable[[str], None]) -> str:
        """The image for a front that follows `front`, from the base of the model's image if another program is needed."""
        if front is not None and not self.images.is_renewable(front):
            return str(front["Image"])
        base = (image["Config"]["Labels"] or {}).get(_BASE)
        if base is None:
            raise refused(f"the image has no label {_BASE}: mlo did not render it", self.engine)
        return self.images.on(base, progress)

    def publish(self, found: Found, image: Mapping[str, Any], model: str, *, grpc: bool, tls: bool) -> tuple[str, ...]:
        """Have a running front of the wanted form and without drift, before the traffic is switched; returns what to tell the user.

        Args:
            found: what is there.
            image: what the engine says about the model's image.
            model: name of the container that is to have the traffic; a front that is made anew sends it there at once.
            grpc: whether the revision that is to have the traffic answers gRPC.
            tls: whether it takes requests over TLS.

        Raises:
            DeployFailed: E618 a port is in use, E645 the image of a new front cannot be built, E643 the engine cannot publish it; the former front publishes as before.
        """
        fronts, wanted = self._one_a_port(found), self._form(grpc=grpc, tls=tls)
        same = next((each for each in fronts if published_by(each).port == wanted.port), None)
        if same is None:
            return ()  # the port of a change that was given up: the next one settles it
        if published_by(same) != wanted or drift(same, self.network) or self.images.is_renewable(same):
            why = (
                "the front is renewed" if published_by(same) == wanted else "what is published at the port has changed"
            )
            gap = self._replace(same, wanted, self._image(same, image, lambda _: None), model)
            return (f"{why}, so connections were refused for {gap:.1f} s",)
        wake(self.api, same)
        if _name(same) != (name := self.marks.front(wanted.port)):
            self.api.rename(same["Id"], name)  # a run died while it replaced it
        return ()

    def settle(self, found: Found, *, grpc: bool, tls: bool) -> list[Mapping[str, Any]]:
        """Leave one front, of the wanted form, once the traffic is switched; returns what is left.

        Args:
            found: what is there.
            grpc: whether the revision that has the traffic answers gRPC.
            tls: whether it takes requests over TLS.
        """
        wanted = self._form(grpc=grpc, tls=tls)
        if all(published_by(each) != wanted for each in found.fronts):
            return list(found.fronts)
        for front in found.fronts:
            if published_by(front) != wanted:
                remove(self.api, front["Id"], stop_seconds=stop_seconds(found.live))
        return [front for front in found.fronts if published_by(front) == wanted]

    def leave_other_networks(self, fronts: Iterable[Mapping[str, Any]]) -> None:
        """Take fronts out of networks in which no revision is any more; the engine's default one leads to the published port."""
        for front in fronts:
            for name in front["NetworkSettings"]["Networks"]:
                if name not in (self.network, "bridge"):
                    self.api.disconnect_container_from_network(front["Id"], name)

    def _form(self, *, grpc: bool, tls: bool) -> Published:
        return replace(self.wanted, grpc=grpc, tls=tls)

    def _new(self, what: Published, revision: int, state: bytes | None, image: str) -> Mapping[str, Any]:
        """A new front, running."""
        front = create_front(self.api, self.marks, image, what, self.network, revision=revision, state=state)
        crash_point("docker.front-created")
        try:
            return self._running(self.api.inspect_container(front))
        except BaseException as error:
            undo(error, f"removing the container {front[:12]}", lambda: remove(self.api, front))
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

    def _replace(self, front: Mapping[str, Any], wanted: Published, image: str, use: str | None = None) -> float:
        """Put another front at the same port; returns for how many seconds connections were refused.

        The new one is complete before the former one is stopped, so that whoever dies in between leaves one to be started. It has
        the traffic switched already: a revision's form and its front belong together.

        Args:
            front: the former one.
            wanted: what the new one publishes.
            image: id of its image.
            use: name of the container that it sends the traffic to; None for that of the former.
        """
        name = self.marks.front(wanted.port)
        if _name(front) == name:
            self.api.rename(front["Id"], f"{name}-former")
        new: str | None = None
        try:
            state, revision = state_of(self.api, front["Id"]), int(front["Config"]["Labels"][REVISION])
            state = state if use is None else switched(state, use)
            new = create_front(self.api, self.marks, image, wanted, self.network, revision=revision, state=state)
            crash_point("docker.front-replacing")
            self._until_quiet(front)
            with standing_by(self.engine, front["Id"], new):
                gap = self._exchange(front, new)
        except BaseException as error:
            if new is not None:
                undo(error, f"removing the container {new[:12]}", partial(remove, self.api, new))
            undo(error, "renaming the former front", lambda: self.api.rename(front["Id"], name))
            undo(error, _STARTING, lambda: self._running(self.api.inspect_container(front["Id"])))
            raise
        remove(self.api, front["Id"])
        self.images.remove(front["Image"])
        return gap

    def _until_quiet(self, front: Mapping[str, Any]) -> None:
        """Wait for a moment in which no request is under way, if there is one soon: what is under way then may be cut.

        Over TLS, a connection that is open counts as a request.
        """
        live, until = routes_of(self.api, front["Id"]).live, time.monotonic() + _QUIET_SECONDS
        while (
            live is not None and time.monotonic() < until and order(self.api, front["Id"], "busy", live, "tls") != "0"
        ):
            time.sleep(_POLL_SECONDS)

    def _exchange(self, front: Mapping[str, Any], new: str) -> float:
        """Stop a front and start the one that follows it, or if that fails the former one again; returns how many seconds it took."""
        began = time.monotonic()
        try:
            self.api.stop(front["Id"], timeout=_CUT_SECONDS)
            crash_point("docker.front-stopped")
            self._running(self.api.inspect_container(new))
        except BaseException as error:
            # The new one is not removed yet: what stands by starts it, should this be interrupted too.
            undo(error, "stopping the new front", lambda: self.api.stop(new, timeout=0))
            undo(error, _STARTING, lambda: self.api.start(front["Id"]))
            raise
        return time.monotonic() - began


def _name(container: Mapping[str, Any]) -> str:
    return str(container["Name"].removeprefix("/"))
