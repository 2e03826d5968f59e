"""The Docker Engine, through the package `docker`: whether it responds, its images, its containers and their processes."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import causes_of

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["EngineError", "NoEngine", "connected", "container_process", "engine_version", "image_ids"]

_SECONDS = 20.0
_PROCESSES = Path("/proc")
_OTHER_CONTEXT = "choose one that `docker context ls` lists with `docker context use NAME`"


class EngineError(ConnectionError):
    """A request to the Docker Engine failed; the message is a reason without a full stop."""


class NoEngine(EngineError):
    """There is no Docker Engine here, or the package `docker` is missing."""


@contextmanager
def connected(seconds: float = _SECONDS) -> Iterator[DockerClient]:
    """A client of the engine that `DOCKER_HOST` or the current Docker context names, for the block.

    Args:
        seconds: how long the engine may take for each answer.

    Raises:
        NoEngine: the package `docker` is missing, or nothing listens where the engine should.
        EngineError: the current Docker context is missing or damaged, or the engine does not respond in time, or refuses;
            also raised for what fails in the block.
    """
    try:
        import docker  # noqa: PLC0415 - an extra
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415 - what `docker` lets through
    except ImportError as error:
        raise NoEngine("the package docker is not installed; run: pip install 'mlo[docker]'") from error
    host = _host()
    _check_socket(host, seconds)
    try:
        client = docker.from_env(timeout=math.ceil(seconds), environment={**os.environ, "DOCKER_HOST": host})
    except (DockerException, RequestException) as error:
        raise EngineError(_reason(error, host, seconds)) from error
    try:
        yield client
    except (DockerException, RequestException) as error:
        raise EngineError(_reason(error, host, seconds)) from error
    finally:
        client.close()


def engine_version(seconds: float = _SECONDS) -> str:
    """The version of the engine.

    Raises:
        EngineError: it does not respond.
    """
    with connected(seconds) as client:
        return str(client.version()["Version"])


def image_ids(repository: str, seconds: float = _SECONDS) -> Mapping[str, str]:
    """The images of a repository that the engine has: name with tag → id. Nothing is pulled.

    Raises:
        EngineError: it does not respond.
    """
    with connected(seconds) as client:
        images = client.api.images(name=repository)
        return {name: image["Id"] for image in images for name in image["RepoTags"] or ()}


def container_process(file: Path) -> int:
    """The id of a container's first process on this machine; it is not a child of the process that started the container.

    Args:
        file: holds the container's id.

    Raises:
        OSError: the engine does not respond, or runs its containers on another machine.
    """
    container = file.read_text(encoding="ascii").strip()
    with connected() as client:
        process = int(client.api.inspect_container(container)["State"]["Pid"])
    groups = _PROCESSES / str(process) / "cgroup"
    # An engine in a virtual machine has its own process ids, which mean other processes here, or none.
    if not groups.exists() or container not in groups.read_text(encoding="ascii", errors="replace"):
        raise ProcessLookupError("the Docker Engine runs its containers on another machine")
    return process


def _host() -> str:
    """Where the engine listens.

    Raises:
        EngineError: the current Docker context does not say it.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return host
    from docker.context import ContextAPI  # noqa: PLC0415 - an extra
    from docker.context.config import get_current_context_name  # noqa: PLC0415

    name = get_current_context_name()
    try:
        found: str | None = getattr(ContextAPI.get_context(name), "Host", None)  # of None if there is no such context
    except Exception as error:  # the package raises just that if the context's file is damaged
        raise EngineError(f"the current Docker context `{name}` cannot be read: {error}; {_OTHER_CONTEXT}") from error
    if not found:
        raise EngineError(f"the current Docker context `{name}` does not exist or names no engine; {_OTHER_CONTEXT}")
    return found


def _check_socket(host: str, seconds: float) -> None:
    """Connect once if the engine listens on a Unix socket: where that fails, `docker` leaves its own socket open.

    Raises:
        NoEngine: there is no such socket.
        EngineError: nothing listens there, or this user may not connect.
    """
    path = host.removeprefix("unix://")
    if path == host:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(path)
        except FileNotFoundError as error:
            raise NoEngine(f"there is no Docker Engine at {host}") from error
        except OSError as error:
            raise EngineError(_reason(error, host, seconds)) from error


def _reason(error: Exception, host: str, seconds: float) -> str:
    """The reason, from the most informative message."""
    cause = error.__cause__ or error  # what failed when the client asked for the version
    text = str(getattr(cause, "explanation", None) or error)
    causes = tuple(causes_of(error))
    if any(isinstance(each, TimeoutError) for each in causes):
        return f"no answer within {seconds:g} s"
    if any(isinstance(each, PermissionError) for each in causes):
        return f"permission denied at {host}; add your user to the group `docker`"
    if any(isinstance(each, ConnectionRefusedError | FileNotFoundError) for each in causes):
        return f"nothing listens at {host}; start the Docker Engine"
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__
