"""A deployment at a Docker Engine: `deploy: {target: docker}`.

    clients ── published port ── mlo-NAME-front-PORT ──┬── mlo-NAME-r3   has the traffic
                                                       └── mlo-NAME-r4   is being tried, at a port of its own

The front (`front.py`) keeps the published port while revisions come and go. Everything is found by its labels (`marks.py`), and
what was created is kept in a label, so that drift is seen (`drift.py`). The engine keeps all of it running: mlo itself need not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.containers.engine import EngineAddress, EngineError, current_engine
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.images.evidence import built_images
from orchestrator.store.crash_points import crash_point
from orchestrator.store.identity import store_identity
from orchestrator.targets.certificate import Expected
from orchestrator.targets.docker.certificate import read_certificate, require_certificate
from orchestrator.targets.docker.cleaning import remove_images, remove_networks
from orchestrator.targets.docker.drift import kept_of
from orchestrator.targets.docker.failures import another_store, engine_api, no_engine, port_in_use, undo
from orchestrator.targets.docker.front import Published, order, ports_of, published_by, remove_trials, routes_of, wake
from orchestrator.targets.docker.front_image import FrontImages
from orchestrator.targets.docker.fronts import Fronts
from orchestrator.targets.docker.log import FollowedLog
from orchestrator.targets.docker.marks import REVISION, ROLE, STORE, Marks, revision_of
from orchestrator.targets.docker.models import RESTART, create_model, ended, gone, not_up, remove, stop_seconds
from orchestrator.targets.docker.needs import image_at, make_network
from orchestrator.targets.docker.observing import Found, endpoint, find, is_ready, observed, trial_url
from orchestrator.targets.docker.placement import DockerPlacement, RecordedEngine
from orchestrator.targets.docker.reach import choose_port, host_of, is_here, url, who_has
from orchestrator.targets.target import (
    PLAIN,
    Description,
    Observed,
    Offers,
    Release,
    Site,
    Started,
    require_whole_share,
)

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.store.state import Image, PlacementRecord
    from orchestrator.targets.docker.section import DockerDeploy

__all__ = ["DockerTarget"]

_POLL_SECONDS = 0.1
_UNREACHED_SECONDS = 15.0
"""How long a published port may refuse connections although the front runs."""
_LOG_SECONDS = 365 * 86400.0
"""How long a followed log may be silent."""
_LOOPBACK = "127.0.0.1"


class DockerTarget:
    """One deployment at one engine.

    Args:
        site: the deployment.
        engine: None for the one that the environment names, which is looked up when it is needed.
        port, address, network: as in `DockerPlacement`.
    """

    def __init__(
        self, site: Site, engine: RecordedEngine | None, port: int | None, address: str, network: str | None
    ) -> None:
        self._site = site
        self._recorded = engine
        self._port = port
        self._address = address
        self._network = network
        self._chosen: int | None = None
        self._unrestored = ""

    @classmethod
    def wanted(cls, section: DockerDeploy, base: Path, site: Site) -> Self:
        """The engine that the environment names, with the spec's port."""
        del base
        return cls(site, None, section.port, section.address, section.network)

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The engine that the state remembers, whatever the environment names now."""
        found = DockerPlacement.of(placement)
        return cls(site, found.engine, found.port, found.address, found.network)

    @property
    def placement(self) -> PlacementRecord:
        """The engine, and what is published there."""
        return DockerPlacement(
            engine=self._engine, port=self._port, address=self._address, network=self._network
        ).record()

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether it is the same engine, by its address or, if that differs, by the identity that it gives itself."""
        if placement.target != DockerPlacement.TARGET:
            return False
        other = DockerPlacement.of(placement).engine
        if self._engine.address == other.address:
            return True
        try:
            with self._api() as api:
                return other.id is not None and str(api.info()["ID"]) == other.id
        except DeployFailed:
            return False

    def difference(self, endpoint: str) -> str | None:
        """Whether the spec asks for another port, address or network than the deployment has."""
        try:
            with self._api() as api:
                found = find(api, self._marks)
        except DeployFailed:
            return None  # what is there cannot be seen; `observe` says so
        if found.front is None:
            return None
        there = published_by(found.front)
        if self._port is not None and there.port != self._port:
            return f"moves from {endpoint} to port {self._port}"
        if there.address != self._address:
            return f"moves from the address {there.address} to {self._address}"
        if (network := _network_of(found.live)) is not None and network not in self._networks:
            return f"moves from the network {network} to {self._networks[0]}"
        return None

    def describe(self) -> Description:
        """Containers behind a URL."""
        engine, name = self._host(), self._site.name
        where = f"a port of the Docker Engine at {engine}"
        port, tls = self._port, False
        with suppress(DeployFailed), self._api() as api:
            if (front := find(api, self._marks).front) is not None:
                there = published_by(front)
                port, tls = port or there.port, there.tls
        if port is not None:
            where = url(host_of(engine, self._address) or self._address, port, tls=tls)
        return Description(
            where=where,
            label="endpoint",
            in_use="serves",
            removal=f"Remove the containers of {name} at {where} from the Docker Engine at {engine}",
            removed="its containers are removed",
            try_it=f"mlo predict {name} --input FILE.npz",
        )

    def url(self) -> str:
        """The published endpoint.

        Raises:
            DeployFailed: E619 nothing is published, or not where requests from here get to; E640.
        """
        with self._api() as api:
            front = find(api, self._marks).front
        cause = ""
        if front is None:
            cause = "the engine has no container that publishes a port for it"
        elif host_of(self._host(), published_by(front).address) is None:
            cause = f"its port is published at {published_by(front).address} of the engine's machine, {self._host()}"
        if front is None or cause:
            raise DeployFailed(
                Diagnostic(
                    "E619",
                    f"{self._site.name} cannot be reached from here",
                    cause=cause,
                    remedy="run `mlo apply` with its spec; `deploy: address:` says where its port is published",
                )
            )
        return endpoint(front, self._host())

    def observe(self) -> Observed:
        """What the engine has now, and how it differs from what mlo left there."""
        try:
            with self._api() as api:
                return observed(api, find(api, self._marks), self._host())
        except DeployFailed as unseen:
            problem = unseen.diagnostics[0]
            reason = f"{problem.message}: {problem.cause}"
            return Observed(running=False, health="degraded", reason=reason, endpoint=None)

    def history(self) -> tuple[int, ...]:
        """The revisions that have a container; there are none where the engine does not respond."""
        try:
            with self._api() as api:
                found = find(api, self._marks)
        except DeployFailed:
            return ()
        return tuple(sorted(number for name in found.models if (number := revision_of(name)) is not None))

    def certificate(self, named: Path, url: str) -> Expected:
        """What is in the file in the revision's container, which has it from the engine's machine."""
        return Expected(f"{named} of {self._host()}", partial(self._certificate, urlsplit(url).port, named))

    def logs(self, lines: int, *, follow: bool) -> Iterator[str]:
        """What the container with the traffic has printed; followed, the next one's comes when it takes over.

        Raises:
            DeployFailed: E615 there is no container, or none any more; E640.
        """
        log = FollowedLog(self._site.name, self._marks)
        with self._api() as api:
            yield from log.last(api, lines)
        while follow:
            with self._api(_LOG_SECONDS) as api:
                yield from log.more(api)
            time.sleep(1.0)

    def lock(self) -> AbstractContextManager[None]:
        """Nothing: the deployment's lock is enough, as no other store's commands touch its containers."""
        return nullcontext()

    def check(self, offers: Offers = PLAIN) -> None:
        """Whether the engine responds, no other store has the name there, and the port is free and can be reached.

        Raises:
            DeployFailed: E618, E640 to E642, E647 requests from here would not get to the port, E481 the certificate cannot be used.
        """
        with self._api() as api:
            self._check(api, grpc=offers.grpc)
            if offers.tls is not None:
                require_certificate(api, offers.tls, self._engine.address)

    def prepare(self, live: Release | None = None) -> str:
        """Check the place again, let the live revision run if it does not, and say where requests will go.

        Raises:
            DeployFailed: as `check`.
        """
        with self._api() as api:
            found, port = self._check(api, grpc=False)
            if found.live is None or found.front is None:
                # One that cannot be started any more stays down: the one that is about to be started replaces it.
                try:
                    if live is not None:
                        self._restore(api, live)
                except DeployFailed as error:
                    reason = error.diagnostics[0].sentence
                    self._unrestored = f"revision {live.revision if live else 0} could not be started again: {reason}"
            else:
                wake(api, found.front)
                wake(api, found.live)
        # If the revision changes that, `start` says so.
        tls = found.front is not None and published_by(found.front).tls
        return self._url(port, tls=tls)

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Start a container beside the one with the traffic, and wait until it answers through the front.

        Raises:
            DeployFailed: E603 it ended while starting, E604 it was not ready in time, E644 it ran out of memory, E648 the
                image is gone, E640 the engine went away, E643 or E645 it refuses.
        """
        revision = release.revision
        with self._api() as api:
            try:
                return self._start(api, release, progress)
            except BaseException as error:
                if self._unrestored:
                    error.add_note(self._unrestored)
                undo(error, f"removing the containers of revision {revision}", lambda: self._drop(api, revision))
                raise

    def split(self, revision: int, share: float) -> None:
        """All traffic goes to one revision.

        Raises:
            DeployFailed: E623.
        """
        del revision
        require_whole_share(DockerPlacement.TARGET, share)

    def switch(self, revision: int) -> tuple[str, ...]:
        """Send all new requests to a revision's container; the former one finishes what it has and is removed.

        Repeated, it completes a switch that was interrupted.

        Raises:
            DeployFailed: E607 the revision's container does not run; E640, E643, E646.
        """
        with self._api() as api:
            found, name = find(api, self._marks), self._marks.model(revision)
            new = found.models.get(name)
            if new is None or (end := ended(api, new)) is not None or found.front is None:
                cause = "it was removed" if new is None else "" if end is None else end.text
                raise DeployFailed(
                    Diagnostic(
                        "E607",
                        f"the traffic was not switched to revision {revision}",
                        cause=cause or "the container that publishes the port was removed",
                        remedy="run the same command again, which starts the revision anew",
                    )
                )
            network = str(_network_of(new))
            api.update_container(new["Id"], restart_policy={"Name": RESTART})
            # Before other fronts are told, because it may fail: then nothing was switched yet.
            fronts, kept = self._fronts(api, found, network), kept_of(new)
            offers = {"grpc": bool(kept.get("grpc")), "tls": bool(kept.get("tls"))}
            notes = fronts.publish(found, api.inspect_image(new["Image"]), name, **offers)
            if notes or len(found.fronts) > 1 or not found.front["State"]["Running"]:
                found = find(api, self._marks)  # a look takes a busy engine seconds
            for front in found.fronts:
                routes = found.routes if front is found.front else routes_of(api, front["Id"])
                # A former one at another port does not know the revision, and is removed below.
                if front["State"]["Running"] and name in (routes.live, routes.candidate):
                    order(api, front["Id"], "use", name)
            crash_point("docker.switched")
            left = fronts.settle(found, **offers)
            self._retire(api, [each for each in found.models.values() if each["Id"] != new["Id"]], left)
            fronts.leave_other_networks(left)
            remove_networks(api, self._marks, keep=network)
            return (*filter(None, [self._unrestored]), *notes)

    def drop(self, revision: int) -> None:
        """Remove the container of a revision without traffic, and a front that was only made for it."""
        with self._api() as api:
            self._drop(api, revision)

    def stop(self) -> tuple[str, ...]:
        """Finish what is under way, then remove the containers, the network, and images that nothing uses any more."""
        with self._api() as api:
            found = find(api, self._marks)
            for front in found.fronts:
                remove(api, front["Id"], stop_seconds=stop_seconds(found.live))
            for model in found.models.values():
                remove(api, model["Id"], stop_seconds=stop_seconds(model))
            remove_trials(api, self._marks)
            left = remove_networks(api, self._marks)
            remove_images(api, self._images(), {front["Image"] for front in found.fronts})
            return left

    def _certificate(self, port: int | None, named: Path) -> bytes:
        """Of the container that answers at a port now: another one may since have taken over."""
        with self._api() as api:
            found = find(api, self._marks)
            live = found.front is None or published_by(found.front).port == port
            return read_certificate(api, found.routes.live if live else found.routes.candidate, named)

    # What follows is given the engine's API.

    def _check(self, api: Any, *, grpc: bool) -> tuple[Found, int]:
        """What is there, and the port that is published or will be."""
        host = self._host()
        if host_of(host, self._address) is None:
            raise DeployFailed(
                Diagnostic(
                    "E647",
                    f"requests from here cannot reach {self._address} of the Docker Engine's machine",
                    cause=f"the engine is at {host}, and {self._address} is loopback there; mlo proves each revision with requests",
                    remedy="set `deploy: address:` to an address of that machine, or to 0.0.0.0 for all of them",
                    at=("deploy", "address"),
                )
            )
        if self._recorded is None or self._recorded.id is None:
            self._recorded = RecordedEngine.of(self._engine.address, str(api.info()["ID"]))
        found = find(api, self._marks)
        if found.others is not None:
            raise another_store(self._site.name, found.others)
        there = None if found.front is None else published_by(found.front)
        others = [
            each
            for each in api.containers()
            if each["Labels"].get(STORE) != self._marks.store or not self._is_own(each)
        ]
        port = self._port or self._chosen or (None if there is None else there.port)
        if port is None:
            port = self._chosen = choose_port(self._site.name, others, host, self._address)
        own = set[int]()
        if found.front is not None and found.front["State"]["Running"]:
            own = ports_of(found.front)
        for number in (port, port + 1) if grpc else (port,):
            if number not in own and (cause := who_has(others, host, self._address, number)) is not None:
                raise port_in_use(number, self._address, cause)
        self._chosen = port
        return found, port

    def _is_own(self, row: Mapping[str, Any]) -> bool:
        labels = row["Labels"]
        return all(labels.get(key) == value for key, value in self._marks.labels("front").items() if key != ROLE)

    def _start(self, api: Any, release: Release, progress: Callable[[str], None]) -> Started:
        revision, settings = release.revision, ContainerSettings.read(release.rendered)
        if release.image is None:
            raise ValueError("a release to a Docker Engine has an image")
        image = image_at(api, release.image, revision)
        network = make_network(api, self._engine.address, self._marks, self._network, egress=settings.egress)
        found, name = find(api, self._marks), self._marks.model(revision)
        left = found.models.get(name)
        serves = left is not None and found.routes.live == name
        if left is not None and not serves:  # by a run that died before its switch
            remove(api, left["Id"])
            found = find(api, self._marks)
        grpc, tls = settings.grpc_port is not None, settings.tls_folder is not None
        fronts = self._fronts(api, found, network, release.build_network)
        front = fronts.for_revision(found, revision, image, progress, grpc=grpc, tls=tls)
        if left is not None and serves:
            # A run died after its switch: what has the traffic stays, and is verified where it is.
            wake(api, left)
            model, where = str(left["Id"]), endpoint(front, self._host())
        else:
            progress(f"starting a container of {release.image.name} for revision {revision}")
            model = self._create(api, release, settings, image, network)
            crash_point("docker.created")
            api.start(model)
            if routes_of(api, front["Id"]).live != name:
                # A run that died may have left the name there: with the address that its container had, it is not looked up again.
                order(api, front["Id"], "forget", name)
            order(api, front["Id"], "try", name, str(settings.port), str(settings.grpc_port or 1))
            crash_point("docker.started")
            where = trial_url(front, published_by(front), self._host(), tls=tls)
        self._wait(api, release, model, where, settings.ready_path)
        progress(f"revision {revision} is ready")
        return Started(
            revision,
            where,
            endpoint=self._url(fronts.wanted.port, tls=tls),
            why_gone=partial(self._why_gone, revision, model),
        )

    def _why_gone(self, revision: int, model: str) -> Diagnostic | None:
        with self._api() as api:
            return gone(api, revision, api.inspect_container(model))

    def _create(
        self, api: Any, release: Release, settings: ContainerSettings, image: Mapping[str, Any], network: str
    ) -> str:
        kept = {
            "backend": release.backend,
            "ready_path": settings.ready_path,
            "stop_seconds": settings.stop_seconds,
            "grpc": settings.grpc_port is not None,
            "tls": settings.tls_folder is not None,
            "network": network,
        }
        assert release.image is not None
        return create_model(api, self._marks, release.revision, settings, image, kept, network, tag=release.image.name)

    def _wait(self, api: Any, release: Release, model: str, where: str, path: str) -> None:
        """Until the revision answers through the front."""
        bound = release.startup_seconds + 15
        began = time.monotonic()
        while time.monotonic() - began < bound:
            container = api.inspect_container(model)
            if ended(api, container) is not None:
                raise not_up(api, release.revision, container, bound)
            ready = is_ready(where, path)
            if ready:
                return
            if ready is None and time.monotonic() - began > _UNREACHED_SECONDS:
                raise DeployFailed(
                    Diagnostic(
                        "E647",
                        f"requests from here do not reach the ports of the Docker Engine at {self._host()}",
                        cause=f"nothing takes a connection at {where}, which the engine publishes",
                        remedy="run mlo where the engine's ports can be reached: not in a container with a network of its own, and"
                        " with `deploy: address:` an address that leads from here to the engine's machine",
                    )
                )
            time.sleep(_POLL_SECONDS)
        raise not_up(api, release.revision, api.inspect_container(model), bound)

    def _fronts(self, api: Any, found: Found, network: str, build_network: str | None = None) -> Fronts:
        port = self._port or self._chosen or (None if found.front is None else published_by(found.front).port)
        if port is None:
            port = self._chosen = choose_port(self._site.name, (), self._host(), self._address)
        trial = _LOOPBACK if is_here(self._host()) else self._address
        wanted = Published(self._address, port, grpc=False, tls=False, trial=trial)
        return Fronts(api, self._engine.address, self._marks, network, wanted, FrontImages(api, build_network))

    def _retire(self, api: Any, former: list[Mapping[str, Any]], fronts: list[Mapping[str, Any]]) -> None:
        """Remove containers that have lost the traffic, once they have answered what they had.

        What they have over TLS is not seen: their server ends each connection after its last answer.
        """
        for model in former:
            name, seconds = model["Name"].removeprefix("/"), stop_seconds(model)
            until = time.monotonic() + seconds
            for front in fronts:
                while time.monotonic() < until and self._busy(api, front, name):
                    time.sleep(_POLL_SECONDS)
            remove(api, model["Id"], stop_seconds=seconds)
            crash_point("docker.former-removed")
            for front in fronts:
                order(api, front["Id"], "forget", name)

    def _busy(self, api: Any, front: Mapping[str, Any], name: str) -> bool:
        """Whether a front still waits for answers of a container; one that it does not know has none to give."""
        try:
            return order(api, front["Id"], "busy", name) not in ("", "0")
        except DeployFailed:
            return False

    def _drop(self, api: Any, revision: int) -> None:
        found, name = find(api, self._marks), self._marks.model(revision)
        if found.routes.live == name:
            return
        for front in found.fronts:
            if found.routes.live is None or (
                len(found.fronts) > 1 and front["Config"]["Labels"].get(REVISION) == str(revision)
            ):
                remove(api, front["Id"])
            elif front["State"]["Running"]:
                order(api, front["Id"], "forget", name)
        if name in found.models:  # a container of somebody else may have the name
            remove(api, found.models[name]["Id"])
        remove_trials(api, self._marks)
        network = _network_of(found.live)
        if network is not None and any(each["Name"] != network for each in api.networks(filters=self._marks.own)):
            self._fronts(api, found, network).leave_other_networks(find(api, self._marks).fronts)
            remove_networks(api, self._marks, keep=network)

    def _restore(self, api: Any, live: Release) -> None:
        """Start the live revision again, whose container or front is gone; requests wait for it, this does not."""
        settings = ContainerSettings.read(live.rendered)
        assert live.image is not None
        image = image_at(api, live.image, live.revision)
        network = make_network(api, self._engine.address, self._marks, self._network, egress=settings.egress)
        name, found = self._marks.model(live.revision), find(api, self._marks)
        fronts = self._fronts(api, found, network, live.build_network)
        offers = {"grpc": settings.grpc_port is not None, "tls": settings.tls_folder is not None}
        front = fronts.for_revision(found, live.revision, image, lambda _: None, **offers)
        if name not in found.models:
            self._create(api, live, settings, image, network)
        api.update_container(name, restart_policy={"Name": RESTART})
        api.start(name)
        order(api, front["Id"], "try", name, str(settings.port), str(settings.grpc_port or 1))
        order(api, front["Id"], "use", name)

    def _images(self) -> list[Image]:
        """Of the revisions that the state records, and those that were built and never deployed."""
        store, name = self._site.store, self._site.name
        known = store.state.read().deployments.get(name)
        recorded = () if known is None else tuple(entry.image for entry in known.history if entry.image is not None)
        return [*recorded, *built_images(store.home.images, name)]

    @property
    def _engine(self) -> RecordedEngine:
        if self._recorded is None:
            try:
                self._recorded = RecordedEngine.of(current_engine(), None)
            except EngineError as error:
                raise no_engine(str(error)) from error
        return self._recorded

    def _host(self) -> str:
        return self._engine.host

    def _url(self, port: int, *, tls: bool) -> str:
        """Of a port that is published at the address."""
        return url(host_of(self._host(), self._address) or self._address, port, tls=tls)

    @property
    def _marks(self) -> Marks:
        home = self._site.store.home
        return Marks(self._site.name, store_identity(home), str(home.root))

    @property
    def _networks(self) -> tuple[str, ...]:
        """The networks that a revision may be in."""
        if self._network is not None:
            return (self._network,)
        return self._marks.network(egress=False), self._marks.network(egress=True)

    @contextmanager
    def _api(self, seconds: float = 60.0) -> Iterator[Any]:
        address: EngineAddress = self._engine.address
        with engine_api(address, seconds) as api:
            yield api


def _network_of(model: Mapping[str, Any] | None) -> str | None:
    """The network that a revision's container was created in."""
    return None if model is None else kept_of(model).get("network")
