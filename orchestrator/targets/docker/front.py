"""The front of a deployment: the container that publishes its port, and knows which revision's container has the traffic.

It is HAProxy with a small program (`templates/front/`), which changes routes while HAProxy runs and keeps them in a volume, so
that they outlive mlo, the container and the engine.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.drift import published
from orchestrator.targets.docker.failures import is_status, is_taken, name_taken, port_in_use
from orchestrator.targets.docker.marks import ROLE, Marks
from orchestrator.targets.docker.models import RESTART, log_limits, remove

__all__ = [
    "CANDIDATE",
    "GRPC",
    "HTTP",
    "Published",
    "Routes",
    "create_front",
    "front_image",
    "is_renewable",
    "order",
    "program_digest",
    "published_by",
    "remove_after",
    "routes_of",
    "start_front",
    "state_of",
    "wake",
]

HTTP, GRPC, CANDIDATE = "8080/tcp", "8081/tcp", "8090/tcp"
"""The front's ports inside its container: for requests, over gRPC too, and for a revision that is being tried."""

_REPOSITORY = "mlo-front"
_PROGRAM = "mlo.front"
"""The label with the digest of the front's program, which containers have from their image."""
_STATE = "/var/lib/front"
_USER = "65532:65532"
_MEMORY = 256 * 2**20
_PROCESSES = 64
_TMPFS = {"/run/front": "size=1m,mode=0700,uid=65532,gid=65532"}
_NOBODY = "nobody"
_LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Published:
    """What a front publishes at the engine's machine.

    Attributes:
        address: for requests.
        port: for requests; the next one is for gRPC.
        grpc: whether that one is published too.
        trial: the address at which a revision is tried before it has the traffic; the engine chooses the port.
    """

    address: str
    port: int
    grpc: bool
    trial: str

    def bindings(self) -> dict[str, tuple[str, int | None]]:
        """Port of the container → address and port of the machine."""
        grpc: dict[str, tuple[str, int | None]] = {GRPC: (self.address, self.port + 1)} if self.grpc else {}
        return {HTTP: (self.address, self.port), CANDIDATE: (self.trial, None), **grpc}


@dataclass(frozen=True, slots=True)
class Routes:
    """Which container has which traffic; None for no one."""

    live: str | None
    candidate: str | None


def published_by(front: Mapping[str, Any]) -> Published:
    """What a front that is there publishes."""
    ports = published(front["HostConfig"]["PortBindings"] or {})
    address, _, port = ports[HTTP][0].rpartition(":")
    return Published(address, int(port), GRPC in ports, ports[CANDIDATE][0].rpartition(":")[0])


def front_image(api: Any, base: str, progress: Callable[[str], None]) -> str:
    """The id of the front's image, which is built unless the engine has it.

    Args:
        api: of the engine.
        base: the image of Debian or Ubuntu that it is built on: that of the model's image, which is there already.
        progress: is called with what is built.

    Raises:
        DeployFailed: E645 it cannot be built.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    files, program = _context(base), program_digest()
    tag = f"{_REPOSITORY}:{_digest({**files, _PROGRAM: program.encode()})}"
    try:
        return str(api.inspect_image(tag)["Id"])
    except APIError as error:
        if not is_status(error, 404):
            raise
    progress(f"building {tag}, which publishes the port (once for this engine)")
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    labels = {"mlo.role": "front-image", _PROGRAM: program}
    for message in api.build(
        fileobj=_tar(files),
        custom_context=True,
        tag=tag,
        rm=True,
        forcerm=True,
        decode=True,
        labels=labels,
        timeout=1800,
    ):
        if "error" in message:
            raise _not_built(tag, base, str(message["error"]), lines)
        lines.extend(line.rstrip() for line in str(message.get("stream", "")).splitlines() if line.strip())
    return str(api.inspect_image(tag)["Id"])


def program_digest() -> str:
    """What changes with the front's program, and not with the base of its image."""
    return _digest(_context("debian"))


def is_renewable(front: Mapping[str, Any]) -> bool:
    """Whether another version of mlo made the front, with another program."""
    return bool(front["Config"]["Labels"].get(_PROGRAM) != program_digest())


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
            labels=marks.labels("front", revision, {"facts": facts, "network": network}),
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
        remove_after(error, api, front)
        raise
    return front


def remove_after(error: BaseException, api: Any, front: str) -> None:
    """Remove a front that was made for something that failed with `error`, which stays the one to show."""
    try:
        remove(api, front)
    except Exception as second:  # noqa: BLE001 - the engine may have gone away, which the first error says
        error.add_note(f"removing the container {front[:12]} also failed: {second}")


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


def order(api: Any, front: str, *words: str) -> str:
    """Give a running front an order; returns what it printed.

    Raises:
        DeployFailed: E646 it refused.
    """
    run = api.exec_create(front, ["front", *words], user=_USER)
    printed = api.exec_start(run["Id"]).decode("utf-8", "replace").strip()
    code = api.exec_inspect(run["Id"])["ExitCode"]
    if code != 0:
        raise DeployFailed(
            Diagnostic(
                "E646",
                "the front of the deployment refused an order",
                cause=f"`front {' '.join(words)}` ended with exit code {code}: {printed or 'it printed nothing'}",
                remedy=f"remove it (docker rm --force --volumes {front[:12]}) and run `mlo apply` again, which makes a new one;"
                " meanwhile nothing answers at the published port",
            )
        )
    return str(printed)


def state_of(api: Any, front: str) -> bytes:
    """What a front keeps, as a tar file for a front that follows it; it need not run."""
    stream, _ = api.get_archive(front, f"{_STATE}/.")
    return b"".join(stream)


def routes_of(api: Any, front: str) -> Routes:
    """Which containers have the traffic, from what the front keeps; it need not run."""
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(state_of(api, front))) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                texts[member.name.rpartition("/")[2]] = file.read().decode("ascii", "replace")
    slots = dict(line.partition("=")[::2] for line in texts.get("slots", "").splitlines())
    routes = dict(line.partition(" ")[::2] for line in texts.get("routes.map", "").splitlines())

    def who(traffic: str) -> str | None:
        slot = routes.get(traffic, _NOBODY)
        return None if slot == _NOBODY else slots.get(f"{slot.upper()}_HOST")

    return Routes(who("live"), who("candidate"))


def _context(base: str) -> dict[str, bytes]:
    """The files that the image is built from."""
    from orchestrator.render.assets import assets_dir  # noqa: PLC0415 - only when something is built
    from orchestrator.render.fill import fill  # noqa: PLC0415 - jinja

    folder = assets_dir("templates") / "front"
    dockerfile = fill("front/Dockerfile.jinja", {"base": base}).encode()
    return {"Dockerfile": dockerfile, **{name: (folder / name).read_bytes() for name in ("front", "haproxy.cfg")}}


def _digest(files: Mapping[str, bytes]) -> str:
    content = hashlib.sha256()
    for name, text in sorted(files.items()):
        content.update(f"{name}\0{len(text)}\0".encode())
        content.update(text)
    return content.hexdigest()[:16]


def _tar(files: Mapping[str, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755 if name == "front" else 0o644
            archive.addfile(member, io.BytesIO(text))
    packed.seek(0)
    return packed


def _not_built(tag: str, base: str, error: str, lines: deque[str]) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E645",
            f"the image {tag}, which publishes the port, cannot be built",
            cause=error.strip().splitlines()[-1],
            remedy=f"let builds on the engine install Debian packages on {base}, or name an `image: {{base: ...}}` that has haproxy and"
            " socat, or build it where it can be built and bring it here with `docker save` and `docker load`; the last lines of the"
            " log say which instruction failed",
            notes=tuple(lines),
        )
    )
