"""What `mlo` and a deployment's supervisor say to each other over the control socket; `control.py` carries it.

Both ends may be of different versions of mlo, since a supervisor outlives the command that started it. So every request and
every answer names its `PROTOCOL`, and one with another number is refused before it is read. Only `POST /stop` is obeyed
whatever the number is, so that every version can end every supervisor.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field

from orchestrator.spec.strict import Strict

__all__ = [
    "PROTOCOL",
    "AnyMessage",
    "Done",
    "Launching",
    "OpenPort",
    "Recipe",
    "Refusal",
    "ReservedPort",
    "RevisionState",
    "RevisionStatus",
    "StartRevision",
    "Status",
]

PROTOCOL = 2
"""Raise it whenever a message gets, loses or changes a field, also one between a supervisor and its servers
(`orchestrator/server/handover.py`): a running supervisor starts servers of the version that is installed by then."""

AnyMessage = TypeVar("AnyMessage", bound=Strict)
Port = Annotated[int, Field(ge=1, le=65535)]
RevisionState = Literal["starting", "ready", "restarting", "failed", "stopped"]


class Recipe(Strict):
    """What is served.

    Attributes:
        revision: the number of the revision.
        backend: the backend's name in the table of backends.
        name: the model's name on the wire.
        serving: the rendered folder that the backend is started from.
        threads: threads of one model instance.
        startup_seconds: how long loading and warming up may take.
    """

    revision: int
    backend: str
    name: str
    serving: str
    threads: int
    startup_seconds: int


class Launching(Strict):
    """How a recipe is started on this machine: command, ports and folder for its files.

    Attributes:
        grpc_port: where it answers gRPC; None if it does not.
        handover: the option that names the socket over which listening sockets come; None if the server takes none.
        tls: whether the server takes requests over TLS alone.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    port: Port
    grpc_port: Port | None = None
    scratch: str
    ready_path: str
    handover: str | None = None
    tls: bool = False


class OpenPort(Strict):
    """The public port that the deployment is to have."""

    port: Port


class ReservedPort(Strict):
    """A private port, kept free for a server that is about to be started."""

    port: Port


class StartRevision(Strict):
    """Start a server; with `takes_over` it takes the traffic at once if nothing else does."""

    recipe: Recipe
    launching: Launching
    takes_over: bool


class RevisionStatus(Strict):
    """A revision in the supervisor.

    Attributes:
        reason, code: why it is not ready; the exit code, negative for a signal.
        tail: the last lines of its output.
        endpoint: its private address.
        pid: of the server.
        since: when it became ready, seconds since the epoch.
        crashes: in a row.
        in_flight: requests that the gateway has sent to it and that are not answered.
        serving: whether it takes the traffic.
        healthy: whether it answers now, and does not keep crashing; only known of the one that takes the traffic.
    """

    recipe: Recipe
    state: RevisionState
    reason: str | None
    code: int | None
    tail: tuple[str, ...]
    endpoint: str
    pid: int | None
    since: float | None
    crashes: int
    in_flight: int
    serving: bool
    healthy: bool | None = None


class Status(Strict):
    """All that a supervisor does."""

    pid: int
    since: float
    port: Port | None
    grpc_port: Port | None
    serving: RevisionStatus | None
    revisions: dict[int, RevisionState]


class Done(Strict):
    """An order was carried out."""


class Refusal(Strict):
    """An order was not carried out, and why."""

    error: str
