"""What a deployment at a Docker Engine looks like now: what serves, and how it differs from what mlo left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from orchestrator.targets.certificate import unverified_context
from orchestrator.targets.docker.drift import differences, kept_of
from orchestrator.targets.docker.failures import is_status
from orchestrator.targets.docker.front import CANDIDATE, CANDIDATE_TLS, Published, Routes, published_by, routes_of
from orchestrator.targets.docker.marks import DEPLOYMENT, HOME, KEPT, ROLE, STORE, Marks, revision_of
from orchestrator.targets.docker.models import RESTART, ended, memory_word, ran_out_of_memory
from orchestrator.targets.docker.reach import host_of, url
from orchestrator.targets.target import Observed

__all__ = ["Found", "drift", "endpoint", "find", "is_ready", "observed", "trial_url"]

_LOOKS = 4
"""How often what was listed may be gone before it was looked at; each command that is at work removes a few containers."""
_MANY = 3
"""Restarts after which a container counts as one that keeps crashing."""


@dataclass(frozen=True, slots=True)
class Found:
    """The containers of one deployment, as the engine describes each.

    Attributes:
        fronts: running ones first, then the newest first.
        models: by name.
        routes: of the first front; nobody has any traffic if there is none.
        others: labels of a container of this name that belongs to another store; None if there is none.
    """

    fronts: Sequence[Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    routes: Routes
    others: Mapping[str, str] | None

    @property
    def front(self) -> Mapping[str, Any] | None:
        """The front that has the traffic."""
        return self.fronts[0] if self.fronts else None

    @property
    def live(self) -> Mapping[str, Any] | None:
        """The container that the front sends the traffic to, if it is there."""
        return self.models.get(self.routes.live or "")


def find(api: Any, marks: Marks) -> Found:
    """Look at what the engine has of a deployment."""
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    for _ in range(_LOOKS):
        try:
            return _look(api, marks)
        except APIError as error:
            if not is_status(error, 404):  # it was removed since it was listed
                raise
    return _look(api, marks)


def _look(api: Any, marks: Marks) -> Found:
    fronts, models, others = [], {}, None
    for row in api.containers(all=True, filters=marks.namesakes):
        labels = row["Labels"]
        if labels.get(STORE) != marks.store:
            others = {each: labels.get(each, "") for each in (DEPLOYMENT, HOME)}
            continue
        inspected = api.inspect_container(row["Id"])
        if labels.get(ROLE) == "front" and KEPT in labels:  # without that label, it cannot be said what mlo made
            fronts.append(inspected)
        elif labels.get(ROLE) == "model":
            models[inspected["Name"].removeprefix("/")] = inspected
    fronts.sort(key=lambda each: (each["State"]["Running"], each["Created"]), reverse=True)
    routes = routes_of(api, fronts[0]["Id"]) if fronts else Routes(None, None)
    return Found(tuple(fronts), models, routes, others)


def endpoint(front: Mapping[str, Any], host: str) -> str:
    """Where requests go; at the machine of the engine itself if they cannot come from here."""
    what = published_by(front)
    return url(host_of(host, what.address) or what.address, what.port, tls=what.tls)


def _grpc_endpoint(front: Mapping[str, Any], host: str) -> str | None:
    """Host and port for gRPC; None if they are not published."""
    what = published_by(front)
    return f"{host_of(host, what.address) or what.address}:{what.port + 1}" if what.grpc else None


def trial_url(front: Mapping[str, Any], what: Published, host: str, *, tls: bool) -> str:
    """Where a revision answers before it has the traffic, at the port that the engine chose; over TLS if it takes only that."""
    bound = front["NetworkSettings"]["Ports"][CANDIDATE_TLS if tls else CANDIDATE][0]
    return url(host_of(host, what.trial) or what.trial, int(bound["HostPort"]), tls=tls)


def is_ready(base: str, path: str, seconds: float = 3.0) -> bool | None:
    """Whether a ready path answers 200; None if nothing takes the connection."""
    where = urlsplit(base)
    host, port = where.hostname or "", where.port
    connection = HTTPConnection(host, port, timeout=seconds)
    if where.scheme == "https":  # nothing but readiness is asked, so it need not be known who answers
        connection = HTTPSConnection(host, port, timeout=seconds, context=unverified_context())
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
    return answer.status == 200


def observed(api: Any, found: Found, host: str) -> Observed:
    """The deployment at the engine `host`, as commands show it."""
    front = found.front
    if front is None:
        reason = "mlo has not deployed it to this engine, or its containers were removed"
        if found.models:
            reason = "the container that publishes its port was removed; `mlo apply` makes it again"
        return Observed(running=False, health="stopped", reason=reason, endpoint=None)
    where = endpoint(front, host)
    live_name = found.routes.live
    if live_name is None:
        return Observed(running=False, health="stopped", reason="no revision takes the traffic", endpoint=where)
    live, reason = found.live, ""
    if live is None:
        reason = f"the container {live_name} was removed; `mlo apply` starts the revision again"
    elif not live["State"]["Running"] and not live["State"]["Restarting"]:
        end = ended(api, live)
        reason = (
            f"the container {live_name} was stopped: {'' if end is None else end.text}; `mlo apply` starts it again"
        )
    elif not front["State"]["Running"]:
        reason = f"the container {front['Name'].removeprefix('/')}, which publishes the port, was stopped"
    if live is None or reason:
        return Observed(running=False, health="stopped", reason=reason, endpoint=where)
    why = _why_not_healthy(api, found, host)
    return Observed(
        running=True,
        health="degraded" if why else "healthy",
        reason=why,
        endpoint=where,
        revision=revision_of(live_name),
        backend=kept_of(live).get("backend"),
        grpc=_grpc_endpoint(front, host),
        since=f"{live['State']['StartedAt'][:19]}+00:00",
    )


def _why_not_healthy(api: Any, found: Found, host: str) -> str:
    """Why the live revision of a running front is degraded, a clause; empty if it is healthy."""
    front, live = found.front, found.live
    assert front is not None
    assert live is not None
    name = live["Name"].removeprefix("/")
    number = revision_of(name)
    if (end := ended(api, live)) is not None:
        return f"revision {number} is restarting: {end.text}"
    if live["State"]["Paused"]:
        return f"the container {name} is paused"
    network = kept_of(live).get("network")
    drifted = [f"{each['Name'].removeprefix('/')}: {how}" for each in (live, front) for how in drift(each, network)]
    if drifted:
        return "; ".join(drifted)
    if live["RestartCount"] >= _MANY and live["State"].get("Health", {}).get("Status") != "healthy":
        short = f"; it has run out of memory, the limit is {memory_word(live)}" if ran_out_of_memory(api, live) else ""
        return f"revision {number} has crashed {live['RestartCount']} times{short}"
    reachable = host_of(host, published_by(front).address) is not None
    ready = is_ready(endpoint(front, host), kept_of(live)["ready_path"]) if reachable else None
    if ready is None and reachable:
        return f"nothing answers at {endpoint(front, host)}"
    if ready is False or (not reachable and live["State"].get("Health", {}).get("Status") == "unhealthy"):
        short = f"; it has run out of memory, the limit is {memory_word(live)}" if ran_out_of_memory(api, live) else ""
        return f"the server of revision {number} does not answer its readiness check{short}"
    return ""


def drift(container: Mapping[str, Any], network: str | None) -> list[str]:
    """How a front, or the container with the traffic, differs from what mlo left, a clause each.

    Args:
        container: as the engine describes it.
        network: that the container with the traffic was created in, and fronts have followed it to; None if its label is gone.
    """
    restart = container["HostConfig"]["RestartPolicy"]["Name"]
    policy = [] if restart == RESTART else [f"its restart policy is {restart or 'no'} instead of {RESTART}"]
    networks = container["NetworkSettings"]["Networks"]
    gone = [] if network is None or network in networks else [f"it is not in the network {network} any more"]
    return [*differences(container), *policy, *gone]
