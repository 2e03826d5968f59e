"""What every target gives: observe, prepare, bring a candidate up beside what serves, switch to it, drop it, stop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

__all__ = ["Candidate", "Health", "Observed", "Target"]

Health = Literal["healthy", "degraded", "stopped"]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is true now.

    Attributes:
        running: there is something that serves, or that keeps trying to.
        health: `degraded` when it does not answer, keeps crashing, or is not what was put there.
        endpoint: where it is reached, or will be again if it is stopped; None before its first start.
        revision, backend: what takes the traffic; None if nothing does.
        pid: the server's process, where there is one.
        since: when it became ready, ISO 8601 in UTC.
    """

    running: bool
    health: Health
    endpoint: str | None
    revision: int | None
    backend: str | None
    pid: int | None
    since: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A revision that is ready but takes no traffic yet; `endpoint` is where it can be proven."""

    revision: int
    endpoint: str
    pid: int | None


class Target(Protocol):
    """One deployment's place. What is true is observed, never remembered.

    Attributes:
        answers: whether requests can be sent to what it brings up; if not, a candidate is proven by its digest.
    """

    answers: bool

    @property
    def place(self) -> str:
        """What tells this place from others: a folder's path; empty where the name of the deployment does."""

    def highest(self) -> int:
        """The highest number of a revision that is there, whoever put it there; 0 where there is none."""

    def alone(self) -> AbstractContextManager[None]:
        """Hold the place against others for the block, once it is prepared; the deployment's lock holds one store only."""

    def observe(self) -> Observed:
        """What is there, looked at now; changes nothing."""

    def check(self) -> None:
        """Whether the place can take this deployment at all, looked at before anything is computed; changes nothing.

        Raises:
            DeployFailed: it cannot.
        """

    def prepare(self, port: int | None = None) -> str:
        """Make the place ready to take a revision; returns the public endpoint.

        Raises:
            DeployFailed: it cannot be had.
        """

    def start_candidate(
        self,
        revision: int,
        serving: Path,
        backend: str,
        name: str,
        threads: int,
        startup_seconds: int,
        progress: Callable[[str], None],
    ) -> Candidate:
        """Bring a revision up beside what serves. One that does not come up is dropped before the error is raised.

        Raises:
            DeployFailed: it did not come up; what serves is not touched.
        """

    def switch(self, revision: int) -> tuple[str, ...]:
        """Let the candidate take over; returns what a person should know of it, a sentence each.

        Raises:
            DeployFailed: it is not ready any more.
        """

    def drop(self, revision: int) -> None:
        """Remove a candidate; one that is not there is no error, and a revision that was in use is none."""

    def stop(self) -> None:
        """Stop serving, and remove what only this deployment needs. No error if nothing is there."""
