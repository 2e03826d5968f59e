"""What runs of a deployment on this machine, as its supervisor says, and why it is not as it should be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import DeployFailed
from orchestrator.targets.local.control import ControlUnreachableError, ControlVersionError, ask, is_held
from orchestrator.targets.local.messages import RevisionStatus, Status
from orchestrator.targets.local.ports import LOOPBACK, url_of
from orchestrator.targets.local.records import Endpoint
from orchestrator.targets.target import Observed

__all__ = ["is_tls", "observed"]


def observed(folder: Path) -> Observed:
    """What is running now of the deployment in a folder; starts nothing."""
    try:
        kept = Endpoint.read(folder)
    except DeployFailed as damaged:
        reason = f"{damaged.diagnostics[0].message}: {damaged.diagnostics[0].cause}"
        return Observed(running=is_held(folder), health="degraded", reason=reason, endpoint=None)
    endpoint = None if kept is None else kept.url
    if not folder.is_dir():
        return Observed(running=False, health="stopped", reason="it was never started on this machine", endpoint=None)
    try:
        status = ask(folder, "GET", "/status", Status)
    except ControlVersionError as other:
        return Observed(running=True, health="degraded", reason=str(other), endpoint=endpoint)
    except ControlUnreachableError:
        if is_held(folder):
            return Observed(running=True, health="degraded", reason="its supervisor does not answer", endpoint=endpoint)
        return Observed(
            running=False,
            health="stopped",
            reason="no supervisor is running; `mlo apply` starts it",
            endpoint=endpoint,
        )
    serving = status.serving
    if status.port:
        tls = kept is not None and kept.tls if serving is None else is_tls(serving)
        endpoint = url_of(status.port, tls=tls)
    if serving is None:
        return Observed(
            running=True,
            health="stopped",
            reason="its supervisor is running, but no revision takes the traffic",
            endpoint=endpoint,
        )
    healthy = bool(serving.healthy) and status.port is not None
    since = serving.since
    return Observed(
        running=True,
        health="healthy" if healthy else "degraded",
        reason="" if healthy else _why_degraded(serving, listening=status.port is not None),
        endpoint=endpoint,
        revision=serving.recipe.revision,
        backend=serving.recipe.backend,
        grpc=None if status.grpc_port is None else f"{LOOPBACK}:{status.grpc_port}",
        pid=serving.pid,
        since=None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
    )


def is_tls(status: RevisionStatus) -> bool:
    """Whether a revision takes requests over TLS."""
    return urlsplit(status.endpoint).scheme == "https"


def _why_degraded(serving: RevisionStatus, *, listening: bool) -> str:
    """The supervisor's account of the revision that serves, in one clause."""
    number = serving.recipe.revision
    if not listening:
        return "its supervisor does not listen on the public port"
    ending = f": {serving.reason}" if serving.reason else ""
    if serving.state != "ready":
        return f"revision {number} is {serving.state}{ending}"
    if serving.crashes > 1:
        return f"revision {number} has crashed {serving.crashes} times in a row{ending}"
    return f"the server of revision {number} does not answer its readiness check"
