"""A revision's container: created with the limits of `hardware:` and the least rights, watched, and explained when it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.artifacts.container import ContainerSettings
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.drift import kept_of
from orchestrator.targets.docker.failures import is_status, name_taken
from orchestrator.targets.docker.marks import Marks

__all__ = [
    "Ended",
    "create_model",
    "ended",
    "gone",
    "last_lines",
    "log_limits",
    "memory_word",
    "not_up",
    "ran_out_of_memory",
    "remove",
]

_KILLED = 137
"""The exit code after SIGKILL, which is how the kernel ends what takes too much memory."""
RESTART = "unless-stopped"
"""What the engine does with a container that has the traffic and ends, also when the machine starts."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a container's server does not answer.

    Attributes:
        text: the reason, a clause.
        memory: whether it took more than its limit.
    """

    text: str
    memory: bool = False


def create_model(
    api: Any,
    marks: Marks,
    revision: int,
    settings: ContainerSettings,
    image: Mapping[str, Any],
    kept: Mapping[str, Any],
    network: str,
    tag: str,
) -> str:
    """Create the container of a revision, which is not started yet; returns its id.

    Args:
        api: of the engine.
        marks: of the deployment.
        revision: its number.
        settings: as rendered.
        image: what the engine says about the image.
        kept: more that its label keeps.
        network: that it is in.
        tag: the image's name, which `docker ps` then shows; another one of the same image may go at any time.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra
    from docker.types import DeviceRequest, Mount  # noqa: PLC0415

    name = marks.model(revision)
    mounts = [each for each in (settings.token_file, settings.tls_folder) if each is not None]
    security = [f"no-new-privileges:{str(settings.no_new_privileges).lower()}"]
    config = image["Config"]
    # The front routes the traffic away before the container is told to stop, so nothing more arrives then. Over TLS, it passes whole
    # connections on: those that are open stay, and the server has to tell their clients to leave.
    arguments = [*(config["Cmd"] or ()), *(settings.at_once if settings.tls_folder is None else ())]
    facts = {
        "image": image["Id"],
        "command": [*(config["Entrypoint"] or ()), *arguments],
        "environment": sorted(config["Env"] or ()),
        "user": settings.user,
        "memory limit": settings.memory,
        "reserved memory": settings.memory_request,
        "CPU limit": settings.cpus,
        "limit of processes": settings.processes,
        "read-only file system": settings.read_only,
        "dropped capabilities": sorted(settings.cap_drop),
        "added capabilities": [],
        "privileged mode": False,
        "security options": security,
        "folders in memory": dict(settings.tmpfs),
        "mounted files": sorted(f"{file}:{file}" for file in mounts),
        "published ports": {},
    }
    host = api.create_host_config(
        mem_limit=settings.memory,
        memswap_limit=settings.memory,
        mem_reservation=settings.memory_request,
        nano_cpus=round(settings.cpus * 1e9),
        pids_limit=settings.processes,
        read_only=settings.read_only,
        tmpfs=dict(settings.tmpfs),
        cap_drop=list(settings.cap_drop),
        security_opt=security,
        mounts=[Mount(file, file, type="bind", read_only=True) for file in mounts],
        device_requests=[DeviceRequest(count=settings.devices, capabilities=[["gpu"]])] if settings.devices else [],
        network_mode=network,
        log_config=log_limits(api),
    )
    try:
        created = api.create_container(
            tag if tag in (image["RepoTags"] or ()) else image["Id"],
            command=arguments or None,
            name=name,
            hostname=name,
            user=settings.user,
            stop_signal="SIGTERM",
            labels=marks.labels("model", revision, {"facts": facts, **kept}),
            host_config=host,
            use_config_proxy=False,  # the image has its environment; a proxy's address may have a password
        )
    except APIError as error:
        if is_status(error, 409):
            raise name_taken(name) from error
        raise
    return str(created["Id"])


def log_limits(api: Any) -> dict[str, Any] | None:
    """A limit for logs where the engine keeps them in files without one; None where it is set to keep them elsewhere."""
    if api.info()["LoggingDriver"] != "json-file":
        return None
    return {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}}


def ended(api: Any, container: Mapping[str, Any]) -> Ended | None:
    """Why the container does not run; None if it does."""
    state = container["State"]
    if state["Running"] and not state["Restarting"]:
        return None
    if state["Status"] == "created":
        return Ended("its container was never started")
    code = state["ExitCode"]
    if state["OOMKilled"] or (code == _KILLED and ran_out_of_memory(api, container)):
        return Ended(_memory_text(container), memory=True)
    if state["Error"]:
        return Ended(str(state["Error"]))
    return Ended(f"its container exited with code {code}")


def ran_out_of_memory(api: Any, container: Mapping[str, Any]) -> bool:
    """Whether the kernel has ended a process of the container since it was created, because of its memory limit."""
    created = datetime.fromisoformat(container["Created"][:19]).replace(tzinfo=UTC)
    filters = {"container": container["Id"], "event": "oom"}
    # The engine's clock: until a time that is in its future, it would wait. What happened this second counts too.
    now = datetime.fromisoformat(api.info()["SystemTime"]).replace(microsecond=0)
    until = now + timedelta(seconds=1)
    return any(True for _ in api.events(since=created, until=until, filters=filters, decode=True))


def _memory_text(container: Mapping[str, Any]) -> str:
    return f"its container ran out of memory: the limit is {memory_word(container)}"


def memory_word(container: Mapping[str, Any]) -> str:
    """The memory limit of a container."""
    return f"{container['HostConfig']['Memory'] / 2**20:g} MiB"


def not_up(api: Any, revision: int, container: Mapping[str, Any], seconds: int) -> DeployFailed:
    """The error of a revision that did not become ready: E603 it ended, E604 too slow, E644 too little memory."""
    if (reason := gone(api, revision, container)) is not None:
        return DeployFailed(reason)
    return DeployFailed(
        Diagnostic(
            "E604",
            f"revision {revision} did not come up",
            cause=f"the server was not ready after {seconds} s{_printed(api, container)}",
            remedy="if the machine was busy, run the same command again; if not, its log says what the server waits for",
        )
    )


def gone(api: Any, revision: int, container: Mapping[str, Any]) -> Diagnostic | None:
    """Why a revision's server ended, E603, or the kernel ended a process of it, E644; None if neither happened."""
    end = ended(api, container)
    if (end is None or not end.memory) and ran_out_of_memory(api, container):
        end = Ended(_memory_text(container), memory=True)
    if end is None:
        return None
    cause = end.text + _printed(api, container)
    if end.memory:
        return Diagnostic(
            "E644",
            f"revision {revision} ran out of memory",
            cause=cause,
            remedy="raise `hardware: memory:` in the spec, or allow smaller batches",
            at=("hardware", "memory"),
        )
    return Diagnostic(
        "E603",
        f"revision {revision} did not come up",
        cause=cause,
        remedy="correct what its log ends with; if that is nothing of yours, choose another `serving.backend`",
    )


def _printed(api: Any, container: Mapping[str, Any]) -> str:
    """The end of its log, to follow a clause."""
    tail = "".join(f"\n  {line}" for line in last_lines(api, container["Id"], 10))
    return f"; the last lines of its log:{tail}" if tail else "; it printed nothing"


def last_lines(api: Any, container: str, lines: int) -> list[str]:
    """The end of a container's log."""
    text = api.logs(container, stdout=True, stderr=True, tail=lines).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]


def stop_seconds(container: Mapping[str, Any] | None) -> int:
    """How long a revision's container may take to end by itself."""
    return 10 if container is None else int(kept_of(container).get("stop_seconds", 10))


def remove(api: Any, container: str, *, stop_seconds: int | None = None) -> None:
    """Remove a container with its volumes; one that is gone is no error.

    Args:
        api: of the engine.
        container: its id or name.
        stop_seconds: how long it may take to end by itself; None kills it.
    """
    from docker.errors import APIError  # noqa: PLC0415 - an extra

    try:
        if stop_seconds is not None:
            api.stop(container, timeout=stop_seconds)
        api.remove_container(container, v=True, force=True)
    except APIError as error:
        if not is_status(error, 404, 409):  # 409: it is being removed
            raise
