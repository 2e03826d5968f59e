"""The Docker Engine, through the package `docker`: whether it responds, its images, its containers and their processes."""

from __future__ import annotations

import math
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import causes_of

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "EngineAddress",
    "EngineError",
    "EngineRefuses",
    "NoEngine",
    "connected",
    "container_process",
    "current_engine",
    "engine_version",
    "image_ids",
]

_SECONDS = 20.0
_PROCESSES = Path("/proc")
_NOT_INSTALLED = "the package docker is not installed; run: pip install 'mlo[docker]'"
_OTHER_CONTEXT = "choose one that `docker context ls` lists with `docker context use NAME`"


class EngineError(ConnectionError):
    """A request to the Docker Engine failed; the message is a reason without a full stop."""


class NoEngine(EngineError):
    """There is no Docker Engine here, or the package `docker` is missing."""


class EngineRefuses(EngineError):
    """The engine answered, and does not do what it was asked for; the message is its own."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where a Docker Engine listens, and what proves to it who asks.

    Attributes:
        host: as in `DOCKER_HOST`: `unix:///var/run/docker.sock`, `tcp://10.0.0.7:2376`, `ssh://ann@lab`.
        context: the Docker context that keeps the certificates for it; None if none does.
        certificates: the folder with `ca.pem`, `cert.pem` and `key.pem`; None without TLS, or if the context has them.
        verify: whether the engine has to prove who it is too; of no meaning without `certificates`.
    """

    host: str
    context: str | None = None
    certificates: str | None = None
    verify: bool = True


def current_engine() -> EngineAddress:
    """The engine that the environment names, as for Docker's own commands: `DOCKER_CONTEXT`, `DOCKER_HOST`, the current context.

    Raises:
        NoEngine: the package `docker` is missing.
        EngineError: the context is missing or damaged.
    """
    environment = os.environ
    name = environment.get("DOCKER_CONTEXT") or None
    if name is None and (host := environment.get("DOCKER_HOST")):
        verify = bool(environment.get("DOCKER_TLS_VERIFY"))
        folder = environment.get("DOCKER_CERT_PATH") or None
        if folder is None and verify:
            folder = str(Path.home() / ".docker")
        return EngineAddress(host, certificates=None if folder is None else str(Path(folder).absolute()), verify=verify)
    try:
        from docker.context.config import get_current_context_name  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise NoEngine(_NOT_INSTALLED) from error
    name = name or get_current_context_name()
    context = _context(name)
    host = getattr(context, "Host", None)  # of None if there is no such context
    if not host:
        raise EngineError(f"the current Docker context `{name}` does not exist or names no engine; {_OTHER_CONTEXT}")
    return EngineAddress(host, None if context.TLSConfig is None else name)


@contextmanager
def connected(seconds: float = _SECONDS, engine: EngineAddress | None = None) -> Iterator[DockerClient]:
    """A client of an engine, for the block.

    Args:
        seconds: how long the engine may take for each answer.
        engine: which one; None for the one that the environment names.

    Raises:
        NoEngine: the package `docker` is missing, or nothing listens where the engine should.
        EngineError: the current Docker context is missing or damaged, or the engine does not respond in time;
            also raised for what fails in the block.
        EngineRefuses: it answered with a refusal, also to something in the block.
    """
    try:
        import docker  # noqa: PLC0415 - an extra
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415 - what `docker` lets through
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - and this while it reads an answer in pieces
    except ImportError as error:
        raise NoEngine(_NOT_INSTALLED) from error
    engine = engine or current_engine()
    host = engine.host
    _check_socket(host, seconds)
    if host.startswith("ssh://") and find_spec("paramiko") is None:
        raise EngineError(
            f"{host} needs one more package: pip install 'docker[ssh]'; or let the engine listen with TLS"
        )
    try:
        client = docker.DockerClient(
            base_url=host,
            tls=_tls(engine) or False,
            timeout=math.ceil(seconds),
            use_ssh_client=host.startswith("ssh://"),
        )
    except (DockerException, RequestException) as error:
        raise _failed(error, host, seconds) from error
    try:
        yield client
    except (DockerException, RequestException, HTTPError) as error:
        raise _failed(error, host, seconds) from error
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


def _context(name: str) -> Any:
    """The Docker context of that name; None if there is none.

    Raises:
        EngineError: it is damaged.
    """
    from docker.context import ContextAPI  # noqa: PLC0415 - an extra

    try:
        return ContextAPI.get_context(name)
    except Exception as error:  # the package raises just that if the context's file is damaged
        raise EngineError(f"the current Docker context `{name}` cannot be read: {error}; {_OTHER_CONTEXT}") from error


def _tls(engine: EngineAddress) -> Any:
    """The certificates for a connection to the engine; None without TLS.

    Raises:
        EngineError: the context that has them is gone.
        docker.errors.TLSParameterError: a file is missing.
    """
    from docker.tls import TLSConfig  # noqa: PLC0415 - an extra

    class OwnAuthority(TLSConfig):
        """The engine's own authority counts, and not those of REQUESTS_CA_BUNDLE, which `requests` prefers otherwise."""

        def configure_client(self, client: Any) -> None:
            super().configure_client(client)
            client.trust_env = False

    if engine.context is not None:
        found = getattr(_context(engine.context), "TLSConfig", None)
        if found is None:
            raise EngineError(
                f"the Docker context `{engine.context}`, which had the certificates for {engine.host}, is gone"
            )
        return OwnAuthority(client_cert=found.cert, ca_cert=found.ca_cert, verify=found.verify)
    if engine.certificates is None:
        return None
    folder = Path(engine.certificates)
    return OwnAuthority(
        client_cert=(str(folder / "cert.pem"), str(folder / "key.pem")),
        ca_cert=str(folder / "ca.pem") if engine.verify else None,
        verify=engine.verify,
    )


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


def _failed(error: Exception, host: str, seconds: float) -> EngineError:
    """A refusal if the engine answered, also when the client asked for the version."""
    answered = getattr(error.__cause__ or error, "explanation", None) or getattr(error, "explanation", None)
    return (EngineRefuses if answered else EngineError)(_reason(error, host, seconds))


def _reason(error: Exception, host: str, seconds: float) -> str:
    """The reason, from the most informative message."""
    cause = error.__cause__ or error  # what failed when the client asked for the version
    text = str(getattr(cause, "explanation", None) or error)
    if "Connection broken" in text:
        return "it closed the connection in the middle of an answer"
    causes = tuple(causes_of(error))
    distrust = next((each for each in causes if isinstance(each, ssl.SSLError)), None)
    if distrust is not None:
        return f"no secure connection to {host}: {distrust.reason or distrust}; check the certificates"
    if any(isinstance(each, TimeoutError) for each in causes):
        return f"no answer within {seconds:g} s"
    if any(isinstance(each, PermissionError) for each in causes):
        return f"permission denied at {host}; add your user to the group `docker`"
    if any(isinstance(each, ConnectionRefusedError | FileNotFoundError) for each in causes):
        return f"nothing listens at {host}; start the Docker Engine"
    return text.strip().splitlines()[-1] if text.strip() else type(error).__name__
