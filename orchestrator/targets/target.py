"""The protocol of targets: observe a deployment, start a new revision beside it, direct traffic, stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

if TYPE_CHECKING:
    from orchestrator.steps.server_options import ServerAuth, ServerTls
    from orchestrator.store.state import Image, PlacementRecord
    from orchestrator.store.store import Store
    from orchestrator.targets.certificate import Expected

__all__ = [
    "PLAIN",
    "Beside",
    "Description",
    "Health",
    "Observed",
    "Offers",
    "Release",
    "Site",
    "Split",
    "Started",
    "Target",
    "require_whole_share",
]

Health = Literal["healthy", "degraded", "stopped"]


@dataclass(frozen=True, slots=True)
class Site:
    """A deployment by its store and its name."""

    store: Store
    name: str


@dataclass(frozen=True, slots=True)
class Release:
    """A rendered revision, with what is needed to start it.

    Attributes:
        revision: its number.
        serving: the folder `serving/` of the rendered tree, which must stay for as long as the revision may be started again.
        backend: its name in `backends/table.py`.
        model: the model's name on the wire.
        threads: of one model instance.
        startup_seconds: bound on loading and warming up.
        image: for a target that starts images; pushed if the target needs that and the spec names a registry.
        build_network: of the commands of builds on an engine, as Docker names it; None for the engine's default.
        prove: sends golden requests to a URL, and raises DeployFailed if they are not answered as verified; for a target that asks
            again once the revision has the traffic. None for a revision that is not being released.
        share: the largest that it gets of the traffic, by `split`, before it takes over; 0 if it takes over at once.
    """

    revision: int
    serving: Path
    backend: str
    model: str
    threads: int
    startup_seconds: int
    image: Image | None = None
    build_network: str | None = None
    prove: Callable[[str], None] | None = None
    share: float = 0.0

    @property
    def rendered(self) -> Path:
        """The whole rendered tree: chart, values, Docker context."""
        return self.serving.parent


@dataclass(frozen=True, slots=True)
class Offers:
    """What a server will offer its clients, as far as a place has to be fit for it.

    Attributes:
        grpc: whether it may offer gRPC.
        tls: where it will read its certificate; None for plain HTTP.
        auth: where it will read the tokens that it accepts; None if it asks for none.
    """

    grpc: bool = False
    tls: ServerTls | None = None
    auth: ServerAuth | None = None


PLAIN = Offers()
"""HTTP for everybody."""


@dataclass(frozen=True, slots=True)
class Started:
    """A revision that is ready and takes no traffic yet.

    Attributes:
        url: where golden requests can be sent; None where there is no server, and the target has proven the revision itself.
        proof: how it has proven it, in one sentence; empty where there is a `url`.
        pid: the server's process, where there is one on this machine.
        endpoint: the deployment's once traffic goes to it, if `prepare` could not know it.
        why_gone: says why its server has ended since, or has lost a process; None if it has not. For a target that can tell.
    """

    revision: int
    url: str | None
    proof: str = ""
    pid: int | None = None
    endpoint: str | None = None
    why_gone: Callable[[], Diagnostic | None] | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """A revision that takes a share of the traffic beside the one that serves.

    Attributes:
        share: that it really takes, 0 to 1.
        how: what makes that share, a clause: "1 of 4 pods".
        new, old: URLs that lead to the new revision alone, among what takes traffic, and to the one that serves.
        check: raises DeployFailed if the new revision has ceased to be as it was when it got its share.
        lost: how many connections to these URLs have been lost on the way by now, through no fault of a revision.
        now: `share` and `how` as they are at the moment: the number of replicas may have changed.
    """

    share: float
    how: str
    new: str
    old: str
    check: Callable[[], None]
    lost: Callable[[], int]
    now: Callable[[], tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Beside:
    """A revision that takes a share of the traffic, as observed; the attributes are those of `Split`."""

    revision: int
    share: float
    how: str


@dataclass(frozen=True, slots=True)
class Observed:
    """A deployment as observed now.

    Attributes:
        running: a revision serves, or is being restarted.
        health: `degraded` when it does not answer, keeps crashing, or is not what was deployed.
        reason: why it is degraded or stopped, for people; empty where it is healthy.
        endpoint: where it is, or will be again if it is stopped; None before its first start.
        grpc: host and port where gRPC is answered as well; None if it is not.
        revision, backend: what takes the traffic; None if nothing does.
        pid: the server's process, where there is one on this machine.
        since: when it became ready, ISO 8601 in UTC.
        differences: what is not as it was deployed, a clause each, where the target can tell.
        beside: a revision that takes a share of the traffic; None where one takes all.
        progress: what is under way by another command, so that what is seen is no drift yet; empty if nothing is.
    """

    running: bool
    health: Health
    reason: str
    endpoint: str | None
    revision: int | None = None
    backend: str | None = None
    grpc: str | None = None
    pid: int | None = None
    since: str | None = None
    differences: tuple[str, ...] = ()
    beside: Beside | None = None
    progress: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """The words that commands print about a deployment at this target.

    Attributes:
        where: where it is, such as its URL; before the first start what that will be.
        label: the label of `where` in a list, such as `endpoint`.
        in_use: what the revision in use does, such as `serves`; "revision 3 serves", "revision 2 serves again".
        removal: what `mlo destroy` would do: "Stop digits at http://..."; a question mark follows.
        removed: what it has done: "stopped".
        try_it: a command that tries it out; empty where there is no server.
        then: a command for what is left to do; empty if nothing is.
    """

    where: str
    label: str
    in_use: str
    removal: str
    removed: str
    try_it: str = ""
    then: str = ""


class Target(Protocol):
    """One deployment at its place. Its state is observed, never remembered.

    Every revision number is used once: 1, 2, 3, ...; the same number again means the same revision.
    """

    @classmethod
    def wanted(cls, section: Any, base: Path, site: Site) -> Self:
        """The place that a spec asks for.

        Args:
            section: the target's own section model.
            base: the spec's folder.
            site: the deployment.
        """

    @classmethod
    def placed(cls, placement: PlacementRecord, site: Site) -> Self:
        """The place that `placement` of the same target describes, as the state remembers it.

        Raises:
            StoreFailed: E704 it is damaged, E705 another version of mlo wrote it.
        """

    @property
    def placement(self) -> PlacementRecord:
        """The record of this place for the state; `placed` reads it back."""

    def is_at(self, placement: PlacementRecord) -> bool:
        """Whether that placement, of any target, is this place."""

    def difference(self, endpoint: str) -> str | None:
        """How this place differs from the spec: "moves from http://... to port 8080"; None if it does not.

        Args:
            endpoint: that the state remembers.
        """

    def describe(self) -> Description:
        """The words for this deployment; changes nothing and sends no requests."""

    def observe(self) -> Observed:
        """What is there now; changes nothing."""

    def history(self) -> tuple[int, ...]:
        """The revisions that are there, in ascending order, from any store; a rollback to one copies nothing."""

    def url(self) -> str:
        """Where requests for predictions are sent.

        Raises:
            UsageError: E619 nothing answers requests there.
        """

    def certificate(self, named: Path, url: str) -> Expected:
        """The certificate that the server at an `https:` URL must show.

        Args:
            named: the file that the server reads it from, on the server's machine.
            url: of `url`, or of a revision that was started.
        """

    def logs(self, lines: int, *, follow: bool) -> Iterator[str]:
        """The last lines of the server's log, then, if `follow`, each new one, without end.

        Raises:
            UsageError, DeployFailed: E615 there is no log.
        """

    def lock(self) -> AbstractContextManager[None]:
        """Lock the place for the block, once it is prepared; the deployment's lock covers one store only.

        Raises:
            Busy: E605 another command holds it.
        """

    def check(self, offers: Offers = PLAIN) -> None:
        """Check, before anything is computed, whether the place can take this deployment; changes nothing.

        Args:
            offers: of the server that is to run there.

        Raises:
            DeployFailed: it cannot.
        """

    def prepare(self, live: Release | None = None) -> str:
        """Make the place ready to take a revision; returns the public endpoint.

        Args:
            live: what the state records as live here; it is started again if it has ended, and if the target can do so.

        Raises:
            DeployFailed: the place cannot be used.
        """

    def start(self, release: Release, progress: Callable[[str], None] = ...) -> Started:
        """Start a revision beside the live one. One that does not come up is dropped before the error is raised.

        Args:
            release: what to start.
            progress: is called with what it waits for.

        Raises:
            DeployFailed: it did not come up; the live revision is not touched.
        """

    def split(self, revision: int, share: float) -> Split | None:
        """Give a started revision a share of the traffic beside what serves, or another share than before.

        Args:
            revision: its number.
            share: above 0 and below 1; what is nearest to it is given.

        Returns:
            None where nothing serves with which it could share.

        Raises:
            DeployFailed: it is not ready any more; E623 the target cannot split the traffic.
        """

    def switch(self, revision: int) -> tuple[str, ...]:
        """Let a started revision take over from what served.

        For a revision that has the traffic already, it completes what a run that died during its switch has left.

        Returns:
            What the user should know, a sentence each.

        Raises:
            DeployFailed: it is not ready any more.
        """

    def drop(self, revision: int) -> None:
        """Remove a revision that was started and never took over, with its share; others stay as they are, and none is no error."""

    def stop(self) -> tuple[str, ...]:
        """Stop serving, and remove what only this deployment needs. No error if nothing is there.

        Returns:
            What is left although nothing serves any more, a clause each: "except for files that mlo did not write".
        """


def require_whole_share(target: str, share: float) -> None:
    """For targets that cannot split the traffic.

    Raises:
        DeployFailed: E623 `share` is not 1.0.
    """
    if share != 1.0:
        raise DeployFailed(
            Diagnostic(
                "E623",
                f"the target `{target}` cannot split the traffic",
                cause=f"a share of {share:g} was requested, but the target sends all requests to one revision",
                remedy="ask for 1.0, or deploy to a target that splits traffic",
            )
        )
