"""A deployment on this machine, seen from the command line: observe it, start a revision, switch to it, stop it.

All requests go to the deployment's supervisor (`supervisor.py`) over its control socket. The state is observed:
a process id in a file is never trusted, only the supervisor's lock and socket are.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.store.served import ServedName, claim, forget_served, served_by_others
from orchestrator.targets.certificate import Expected, in_file
from orchestrator.targets.local.control import (
    FAILED_ON_THE_WAY,
    LOCK_FILE,
    ControlRefusedError,
    ControlUnreachableError,
    ControlVersionError,
    ask,
    is_held,
)
from orchestrator.targets.local.launching import launched, not_up
from orchestrator.targets.local.lifetime import answered, is_running, start, starting, stop
from orchestrator.targets.local.logs import LOG_FILE, read
from orchestrator.targets.local.messages import Done, OpenPort, RevisionStatus, Status
from orchestrator.targets.local.observing import is_tls, observed
from orchestrator.targets.local.placement import LocalPlacement
from orchestrator.targets.local.ports import LOOPBACK, first_free, is_free, url_of
from orchestrator.targets.local.records import Endpoint
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
    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.local.section import LocalDeploy

__all__ = ["LocalTarget"]

_POLL_SECONDS = 0.05


class LocalTarget:
    """One deployment's folder and the process that serves it.

    Args:
        folder: `MLO_HOME/deployments/NAME`; created when the deployment is first started.
        port: that the spec asks for; None keeps the one that it has, or takes a free one.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._folder = folder.absolute()
        self._wanted_port = port

    @classmethod
    def wanted(cls, section: LocalDeploy, base: Path, site: Site) -> Self:
        """A server of this store, at the port that the spec asks for if it does."""
        del base
        return cls(site.store.home.deployments / site.name, section.port)

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The server that the state remembers, at the port that it has."""
        LocalPlacement.of(placement)
        return cls(site.store.home.deployments / site.name)

    @property
    def placement(self) -> PlacementRecord:
        """This machine."""
        return LocalPlacement().record()

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether it is on this machine too: a store has one place for each name."""
        return placement.target == LocalPlacement.TARGET

    def difference(self, endpoint: str) -> str | None:
        """Whether the spec asks for another port than the deployment has."""
        if self._wanted_port is None or urlsplit(endpoint).port == self._wanted_port:
            return None
        return f"moves from {endpoint} to port {self._wanted_port}"

    def describe(self) -> Description:
        """A server at a URL."""
        kept = None
        with suppress(DeployFailed):  # a damaged file is no reason not to name the deployment; `observe` reports it
            kept = self._kept()
        port = self._wanted_port or (None if kept is None else kept.port)
        tls = kept is not None and kept.tls
        where = url_of(port, tls=tls) if port else f"a server on this machine (`target: {LocalPlacement.TARGET}`)"
        name = self._folder.name
        return Description(
            where=where,
            label="endpoint",
            in_use="serves",
            removal=f"Stop {name} at {where}",
            removed="stopped",
            try_it=f"mlo predict {name} --input FILE.npz",
        )

    def url(self) -> str:
        """The public endpoint.

        Raises:
            DeployFailed: E619 it was never started.
        """
        kept = self._kept()
        if kept is None:
            raise DeployFailed(
                Diagnostic(
                    "E619",
                    f"{self._folder.name} is not serving",
                    cause="it was never started on this machine",
                    remedy="run `mlo apply` with its spec",
                )
            )
        return kept.url

    def observe(self) -> Observed:
        """What is running now; starts nothing."""
        return observed(self._folder)

    def history(self) -> tuple[int, ...]:
        """The revision that serves, and those that are starting or stopping beside it."""
        try:
            return tuple(sorted(ask(self._folder, "GET", "/status", Status).revisions))
        except ControlUnreachableError:
            return ()

    def prepare(self, live: Release | None = None) -> str:
        """Start the deployment's supervisor unless it runs, and return the public endpoint.

        A deployment keeps its port for life unless the spec asks for another; then the former one stays open until the
        next switch. The live revision is started again if its supervisor went away (a reboot, `kill -9`).

        Args:
            live: the revision that the state records as live.

        Raises:
            DeployFailed: E601 the supervisor does not start, E618 the port is in use, E624 another store serves the name.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with claim(self._served) as other, starting(self._folder):
            if other is not None:
                raise self._second(other)
            started = not is_running(self._folder)
            if started:
                start(self._folder)
            port = self._open_port(started=started)
            if live is not None:
                self._restore(live)
        kept = self._kept()
        return url_of(port, tls=kept is not None and kept.tls)

    def _open_port(self, *, started: bool) -> int:
        """Have the supervisor listen at the public port: the wanted one, the one that it has, or a free one.

        Args:
            started: whether the supervisor was started for it, and is stopped again if it cannot.

        Raises:
            DeployFailed: E618 it cannot be used.
        """
        given = self._wanted_port or self._port()
        while True:
            port = given or first_free(self._folder.name)
            try:
                answered(self._folder, "PUT", "/port", Done, OpenPort(port=port))
            except ControlRefusedError as refused:
                if given is None and not is_free(port):
                    continue  # a deployment that began at the same time was faster; the next one is taken
                if started:
                    stop(self._folder)
                raise self._port_in_use(port, f"{refused}".lower()) from refused
            return port

    def start(self, release: Release, progress: Callable[[str], None] = lambda _: None) -> Started:
        """Start a server beside the one that takes the traffic and wait until it is ready.

        The same release again returns the server that is there. One that does not come up is dropped before the error is
        raised; the former revision is not touched.

        Raises:
            DeployFailed: E603 it ended while starting, E604 it was not ready in time, E606 no supervisor answers,
                E616 the backend cannot be started on this machine.
            Busy: E605 another command has started this revision from something else.
        """
        revision = release.revision
        progress(f"starting {release.backend} for revision {revision}")
        state = launched(self._folder, release, takes_over=False)
        with self._dropped_on_failure(state):
            deadline = time.monotonic() + release.startup_seconds + 15
            while state.state in ("starting", "restarting") and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                state = answered(self._folder, "GET", f"/revisions/{revision}", RevisionStatus)
            if state.state != "ready":
                raise not_up(self._folder, revision, state)
        progress(f"revision {revision} is ready")
        port = answered(self._folder, "GET", "/status", Status).port
        public = None if port is None else url_of(self._wanted_port or port, tls=is_tls(state))
        return Started(revision, state.endpoint, pid=state.pid, endpoint=public)

    def check(self, offers: Offers = PLAIN) -> None:
        """Check that no other store serves the name, and that nothing else listens on its ports.

        Raises:
            DeployFailed: E618 a port is in use, E624.
        """
        for other in served_by_others(Path(self._served.store), self._served.name):
            raise self._second(other)
        port = self._wanted_port or self._port()
        if port is None:
            return  # it gets a free one
        own = self._listening()
        for number in (port, port + 1) if offers.grpc else (port,):
            if number not in own and not is_free(number):
                raise self._port_in_use(number, "another program listens there")

    def _listening(self) -> tuple[int | None, ...]:
        """The public ports that this deployment's supervisor has open."""
        try:
            status = ask(self._folder, "GET", "/status", Status)
        except (ControlUnreachableError, ControlVersionError):
            # One that is alive and does not answer has its ports too; what is wrong with it is told when it is asked.
            port = self._port() if is_held(self._folder) else None
            return () if port is None else (port, port + 1)
        return status.port, status.grpc_port

    def _port_in_use(self, port: int, cause: str) -> DeployFailed:
        return DeployFailed(
            Diagnostic(
                "E618",
                f"port {port} of {LOOPBACK} cannot be used",
                cause=cause,
                remedy=f"stop what listens there (`ss -ltnp 'sport = :{port}'` shows it),"
                " or set another `deploy: port:` in the spec",
                at=("deploy", "port"),
            )
        )

    def lock(self) -> AbstractContextManager[None]:
        """Nothing: the deployment's lock is enough."""
        return nullcontext()

    def split(self, revision: int, share: float) -> None:
        """All traffic goes to one revision.

        Raises:
            DeployFailed: E623.
        """
        del revision
        require_whole_share(LocalPlacement.TARGET, share)

    def switch(self, revision: int) -> tuple[str, ...]:
        """Send all new requests to a revision that is ready. The former one finishes its requests and stops.

        Raises:
            DeployFailed: E607 the revision is not ready any more, E606 no supervisor answers.
        """
        try:
            answered(self._folder, "POST", f"/revisions/{revision}/serve", RevisionStatus)
        except ControlRefusedError as refused:
            halfway = refused.status == FAILED_ON_THE_WAY
            raise DeployFailed(
                Diagnostic(
                    "E607",
                    f"switching the traffic to revision {revision} failed on the way"
                    if halfway
                    else f"the traffic was not switched to revision {revision}",
                    cause=str(refused),
                    remedy="run the same command again, which starts the revision anew; the log says why it was not ready",
                    notes=self._notes(),
                )
            ) from refused
        return ()

    def drop(self, revision: int) -> None:
        """Stop a revision that takes no traffic and remove what it wrote; one that is not there is no error."""
        if not is_held(self._folder):
            return
        try:
            answered(self._folder, "DELETE", f"/revisions/{revision}", Done, seconds=30.0)
        except ControlRefusedError as refused:
            raise DeployFailed(
                Diagnostic(
                    "E607",
                    f"revision {revision} cannot be dropped",
                    cause=str(refused),
                    remedy="run the same command again, which drops it first",
                    notes=self._notes(),
                )
            ) from refused

    def stop(self) -> tuple[str, ...]:
        """Stop serving: take no more connections, answer what is under way, end every process. No error if none runs.

        A damaged record of the port is removed, since nothing needs it any more.

        Raises:
            DeployFailed: E601 the processes cannot be ended.
        """
        if not self._folder.is_dir():
            return ()
        stop(self._folder)
        forget_served(self._served.name, self._served.store)
        try:
            self._port()
        except DeployFailed as damaged:
            (self._folder / Endpoint.FILE).unlink()
            return (f"although {damaged.diagnostics[0].message}, and is removed: {damaged.diagnostics[0].cause}",)
        return ()

    @property
    def _served(self) -> ServedName:
        store = self._folder.parents[1].resolve()
        return ServedName(name=self._folder.name, store=str(store), lock=str(self._folder / LOCK_FILE))

    def _second(self, other: ServedName) -> DeployFailed:
        """A client would get answers of one or the other, and `mlo status` would show half of it."""
        home = f"MLO_HOME={shlex.quote(other.store)}"
        endpoint = LocalTarget(Path(other.lock).parent).observe().endpoint
        return DeployFailed(
            Diagnostic(
                "E624",
                f"another store of this machine serves `{other.name}`",
                cause=f"the store {other.store} serves it at {endpoint or 'an unknown port'}; this one is {self._served.store}",
                remedy=f"to change that deployment, apply with {home}; to replace it, run `{home} mlo destroy {other.name}`"
                " first; to have both, choose another `metadata.name` here",
            )
        )

    def certificate(self, named: Path, url: str) -> Expected:
        """What is in the file on this machine."""
        del url
        return in_file(named)

    def logs(self, lines: int = 100, *, follow: bool = False) -> Iterator[str]:
        """The last lines of the deployment's log, then, if `follow`, each new one, without end.

        Raises:
            DeployFailed: E615 there is no log.
        """
        try:
            yield from read(self._folder, lines, follow=follow)
        except FileNotFoundError as missing:
            raise DeployFailed(
                Diagnostic(
                    "E615",
                    f"{self._folder.name} has no log",
                    cause="it was never started on this machine",
                    remedy="run `mlo apply` with its spec",
                )
            ) from missing

    @contextmanager
    def _dropped_on_failure(self, state: RevisionStatus) -> Iterator[None]:
        """Drop the server on a failure or Ctrl-C, since nothing will switch to it."""
        try:
            yield
        except BaseException:
            if not state.serving:
                self.drop(state.recipe.revision)
            raise

    def _restore(self, live: Release) -> None:
        """Restart the live revision unless one serves. Requests wait for it; this does not."""
        if answered(self._folder, "GET", "/status", Status).serving is not None:
            return
        # A revision that cannot be started any more stays down: the one that is about to be started replaces it.
        with suppress(DeployFailed):
            launched(self._folder, live, takes_over=True)

    def _kept(self) -> Endpoint | None:
        """The permanent public port, and the scheme of requests to it; None before the first start."""
        return Endpoint.read(self._folder)

    def _port(self) -> int | None:
        kept = self._kept()
        return None if kept is None else kept.port

    def _notes(self) -> tuple[str, ...]:
        return (f"log: {self._folder / LOG_FILE}",)
