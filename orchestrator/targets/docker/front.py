"""The front of a deployment: the container that publishes its port, and knows which revision's container has the traffic.

It is HAProxy with a small program (`templates/front/`), which changes routes while HAProxy runs and keeps them in a volume, so
that they outlive mlo, the container and the engine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.drift import kept_of, published
from orchestrator.targets.docker.failures import is_status, is_taken, name_taken, port_in_use, undo
from orchestrator.targets.docker.marks import ROLE, Marks
from orchestrator.targets.docker.models import RESTART, log_limits, remove

__all__ = [
    "CANDIDATE",
    "CANDIDATE_TLS",
    "Published",
    "Routes",
    "create_front",
    "order",
    "ports_of",
    "published_by",
    "remove_trials",
    "routes_of",
    "start_front",
    "state_of",
    "switched",
    "try_ports",
    "wake",
]

_HTTP, _GRPC, CANDIDATE = "8080/tcp", "8081/tcp", "8090/tcp"
"""The front's ports inside its container: for requests, over gRPC too, and for a revision that is being tried."""
_TLS, _GRPC_TLS, CANDIDATE_TLS = "8443/tcp", "8444/tcp", "8091/tcp"
"""The same for revisions that speak TLS: their connections are passed on as they are."""

_STATE = "/var/lib/front"
_USER = "65532:65532"
_MEMORY = 256 * 2**20
_PROCESSES = 64
_TMPFS = {"/run/front": "size=1m,mode=0700,uid=65532,gid=65532"}
_NOBODY, _ROUTES = "nobody", "routes.map"


@dataclass(frozen=True, slots=True)
class Published:
    """What a front publishes at the engine's machine.

    Attributes:
        address: for requests.
        port: for requests; the next one is for gRPC.
        grpc: whether that one is published too.
        tls: whether requests come over TLS.
        trial: the address at which a revision is tried before it has the traffic; the engine chooses the port.
    """

    address: str
    port: int
    grpc: bool
    tls: bool
    trial: str

    def bindings(self) -> dict[str, tuple[str, int | None]]:
        """Port of the container → address and port of the machine; a revision with TLS can be tried beside one without."""
        requests, grpc = (_TLS, _GRPC_TLS) if self.tls else (_HTTP, _GRPC)
        bound: dict[str, tuple[str, int | None]] = {requests: (self.address, self.port)}
        bound |= dict.fromkeys((CANDIDATE, CANDIDATE_TLS), (self.trial, None))
        return bound | ({grpc: (self.address, self.port + 1)} if self.grpc else {})

    def besides(self, there: Published) -> dict[str, tuple[str, int | None]]:
        """What can be tried of it while `there` publishes the same port: another address, and a port for gRPC that is new."""
        if self.address != there.address:
            return {CANDIDATE: (self.address, None)}
        return {_GRPC: (self.address, self.port + 1)} if self.grpc and not there.grpc else {}


@dataclass(frozen=True, slots=True)
class Routes:
    """Which container has which traffic; None for no one."""

    live: str | None
    candidate: str | None


def published_by(front: Mapping[str, Any]) -> Published:
    """What a front was made to publish; what somebody has changed since is drift."""
    ports: dict[str, list[str]] = kept_of(front)["facts"]["published ports"]
    tls = _TLS in ports
    address, _, port = ports[_TLS if tls else _HTTP][0].rpartition(":")
    grpc = (_GRPC_TLS if tls else _GRPC) in ports
    return Published(address, int(port), grpc, tls, ports[CANDIDATE][0].rpartition(":")[0])


def ports_of(front: Mapping[str, Any]) -> set[int]:
    """The ports of the machine that a front has while it runs; 0 for those that the engine chooses."""
    there = published(front["HostConfig"]["PortBindings"] or {})
    return {int(each.rpartition(":")[2]) for bound in there.values() for each in bound}


def create_front(
    api: Any, marks: Marks, image: str, what: Published, network: str, *, revision: int, state: bytes | None
) -> str:
    """Create a front, which is not started yet; returns its id.

    Args:
        api: of the engine.
        marks: of the deployment.
        image: id of the front's image.
        what: it publishes.
        network: in which it finds the revisions' containers.
        revision: that it is made for.
        state: the routes of the front that it follows, from `state_of`; None for none.

    Raises:
        DeployFailed: E642 another container has its name.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    name, bindings = marks.front(what.port), what.bindings()
    config = api.inspect_image(image)["Config"]
    facts = {
        "image": image,
        "command": [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())],
        "user": _USER,
        "memory limit": _MEMORY,
        "limit of processes": _PROCESSES,
        "read-only file system": True,
        "dropped capabilities": ["ALL"],
        "added capabilities": [],
        "privileged mode": False,
        "published ports": {port: [f"{address}:{number or 0}"] for port, (address, number) in sorted(bindings.items())},
    }
    host = api.create_host_config(
        mem_limit=_MEMORY,
        memswap_limit=_MEMORY,
        pids_limit=_PROCESSES,
        read_only=True,
        tmpfs=_TMPFS,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        port_bindings={port: [(address, number or "")] for port, (address, number) in bindings.items()},
        restart_policy={"Name": RESTART},
        log_config=log_limits(api),
    )
    try:
        created = api.create_container(
            image,
            name=name,
            hostname=name,
            user=_USER,
            ports=[(int(port.partition("/")[0]), "tcp") for port in bindings],
            labels=marks.labels("front", revision, {"facts": facts}),
            host_config=host,
            use_config_proxy=False,
        )
    except APIError as error:
        if is_status(error, 409):
            raise name_taken(name) from error
        raise
    front = str(created["Id"])
    try:
        api.connect_container_to_network(front, network, aliases=[marks.deployment])
        if state is not None:
            api.put_archive(front, _STATE, state)
    except BaseException as error:
        undo(error, f"removing the container {front[:12]}", lambda: remove(api, front))
        raise
    return front


def wake(api: Any, container: Mapping[str, Any]) -> None:
    """Let a front or a revision's container run that is stopped or paused.

    Raises:
        DeployFailed: E618 a port of the front is in use.
    """
    if container["State"]["Paused"]:
        api.unpause(container["Id"])
    elif not container["State"]["Running"]:
        if (container["Config"]["Labels"] or {}).get(ROLE) == "front":
            start_front(api, container["Id"], published_by(container))
        else:
            api.start(container["Id"])


def start_front(api: Any, front: str, what: Published) -> None:
    """Start a front.

    Raises:
        DeployFailed: E618 a port is in use.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    try:
        api.start(front)
    except APIError as error:
        if is_taken(cause := str(error.explanation)):
            number = what.port + 1 if what.grpc and f":{what.port + 1}" in cause else what.port
            raise port_in_use(number, what.address, cause.rpartition(": ")[2]) from error
        raise


def try_ports(api: Any, marks: Marks, image: str, bindings: Mapping[str, tuple[str, int | None]]) -> None:
    """Find out whether the engine publishes ports, by a container that does nothing and is removed.

    Args:
        api: of the engine.
        marks: of the deployment.
        image: id of the front's image.
        bindings: port of the container → address and port of the machine; None for any.

    Raises:
        DeployFailed: E618 a port is in use.
        APIError: the engine refuses, such as an address that its machine does not have.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    remove_trials(api, marks)
    published_at = {port: [(at, number or "")] for port, (at, number) in bindings.items()}
    host = api.create_host_config(port_bindings=published_at, auto_remove=True)
    created = api.create_container(
        image,
        entrypoint=["sleep", "1"],
        ports=[(int(port.partition("/")[0]), "tcp") for port in bindings],
        labels=marks.labels("trial"),
        host_config=host,
        use_config_proxy=False,
    )
    try:
        api.start(created)
    except APIError as error:
        for address, number in bindings.values():
            if number is not None and is_taken(cause := str(error.explanation)):
                raise port_in_use(number, address, cause.rpartition(": ")[2]) from error
        raise
    finally:
        remove(api, created["Id"])


def remove_trials(api: Any, marks: Marks) -> None:
    """Remove containers that only tried ports, of commands that were killed meanwhile."""
    for row in api.containers(all=True, filters={"label": [*marks.own["label"], f"{ROLE}=trial"]}):
        remove(api, row["Id"])


def order(api: Any, front: str, *words: str) -> str:
    """Give a running front an order; returns what it printed.

    Raises:
        DeployFailed: E646 it refused.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    try:
        run = api.exec_create(front, ["front", *words], user=_USER)
        printed = str(api.exec_start(run["Id"]).decode("utf-8", "replace").strip())
    except APIError as error:
        if not is_status(error, 409):  # it does not run, such as between two crashes
            raise
        raise _refused(front, f"the engine cannot run `front {' '.join(words)}` there: {error.explanation}") from error
    code = api.exec_inspect(run["Id"])["ExitCode"]
    if code != 0:
        cause = f"`front {' '.join(words)}` ended with exit code {code}: {printed or 'it printed nothing'}"
        raise _refused(front, cause)
    return printed


def _refused(front: str, cause: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E646",
            "the front of the deployment refused an order",
            cause=cause,
            remedy=f"remove it (docker rm --force --volumes {front[:12]}) and run `mlo apply` again, which makes a new one;"
            " meanwhile nothing answers at the published port",
        )
    )


def state_of(api: Any, front: str) -> bytes:
    """What a front keeps, as a tar file for a front that follows it; it need not run."""
    stream, _ = api.get_archive(front, f"{_STATE}/.")
    return b"".join(stream)


def routes_of(api: Any, front: str) -> Routes:
    """Which containers have the traffic, from what the front keeps; it need not run."""
    texts = _texts(state_of(api, front))
    slots, routes = _slots(texts), dict(line.partition(" ")[::2] for line in texts.get(_ROUTES, "").splitlines())

    def who(traffic: str) -> str | None:
        slot = routes.get(traffic, _NOBODY)
        return None if slot == _NOBODY else slots.get(slot)

    return Routes(who("live"), who("candidate"))


def switched(state: bytes, container: str) -> bytes:
    """What a front keeps, with all traffic sent to one of its containers; as it is if the front does not know it.

    Args:
        state: from `state_of`.
        container: its name.
    """
    slot = next((slot for slot, each in _slots(_texts(state)).items() if each == container), None)
    if slot is None:
        return state
    routes, packed = f"live {slot}\ncandidate {_NOBODY}\n".encode(), io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(state)) as before, tarfile.open(fileobj=packed, mode="w") as after:
        for member in before.getmembers():
            content = before.extractfile(member)
            if member.name.rpartition("/")[2] == _ROUTES:
                member.size, content = len(routes), io.BytesIO(routes)
            after.addfile(member, content)
    return packed.getvalue()


def _texts(state: bytes) -> dict[str, str]:
    """The files that a front keeps, by name."""
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(state)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                texts[member.name.rpartition("/")[2]] = file.read().decode("ascii", "replace")
    return texts


def _slots(texts: Mapping[str, str]) -> dict[str, str]:
    """Slot → the container in it; an empty one has the front's own name."""
    lines = (line.partition("=")[::2] for line in texts.get("slots", "").splitlines())
    return {name[0].lower(): host for name, host in lines if name.endswith("_HOST")}
