"""What goes wrong at a Docker Engine, in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from orchestrator.containers.engine import EngineAddress, EngineError, connected
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.marks import HOME

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "another_store",
    "engine_api",
    "is_status",
    "is_taken",
    "name_taken",
    "no_engine",
    "port_in_use",
    "refused",
    "undo",
]

_TAKEN = re.compile(r"port is already allocated|address already in use|ports are not available")
_NO_ADDRESS = re.compile(r"cannot assign requested address")
_NO_SUBNET = re.compile(r"non-overlapping IPv4 address pool|all predefined address pools have been fully subnetted")


@contextmanager
def engine_api(engine: EngineAddress, seconds: float = 60.0) -> Iterator[Any]:
    """The API of an engine for the block.

    Args:
        engine: which one.
        seconds: how long it may take for an answer.

    Raises:
        DeployFailed: E640 it does not respond, E643 it refuses something in the block.
    """
    try:
        with connected(seconds, engine) as client:
            yield cast("Any", client.api)  # the package has types for a part of it only
    except EngineError as error:
        if _explanation(error.__cause__):
            raise refused(str(error), engine) from error
        raise no_engine(str(error), engine) from error


def is_status(error: BaseException, *statuses: int) -> bool:
    """Whether the engine answered with one of these statuses."""
    return getattr(error, "status_code", None) in statuses


def undo(error: BaseException, what: str, act: Callable[[], object]) -> None:
    """Do what undoes something that failed with `error`, which stays the one to show.

    Args:
        error: to which it is added if that fails too.
        what: is done, for that.
        act: what does it.
    """
    try:
        act()
    except Exception as second:  # noqa: BLE001 - the engine may have gone away, which the first error says
        error.add_note(f"{what} also failed: {second}")


def no_engine(cause: str, engine: EngineAddress | None = None) -> DeployFailed:
    """The engine does not respond; what serves there may do so all the same."""
    where = "the Docker Engine" if engine is None else f"the Docker Engine at {engine.host}"
    return DeployFailed(
        Diagnostic(
            "E640",
            f"{where} does not respond",
            cause=cause,
            remedy="start it, or choose another one with DOCKER_HOST or `docker context use NAME`, then run the command again",
        )
    )


def refused(cause: str, engine: EngineAddress) -> DeployFailed:
    """The engine answered, and does not do it."""
    remedy = "mend what the engine says, then run the command again"
    if _NO_SUBNET.search(cause):
        remedy = "remove networks that nothing uses (`docker network prune`), or name one in `deploy: {network: NAME}`"
    elif _NO_ADDRESS.search(cause):
        remedy = "set `deploy: address:` to an address of the engine's machine, or to 0.0.0.0 for all of them"
    elif "Range of CPUs" in cause:
        remedy = "set `hardware: cpus:` to what the engine's machine has"
    elif "could not select device driver" in cause:
        remedy = "install the NVIDIA Container Toolkit on the engine's machine, or take `hardware: accelerator:` out of the spec"
    elif "bind source path does not exist" in cause:
        remedy = "put the files of `serving.auth` and `serving.tls` there on the engine's machine; user 65532 must be able to read them"
    return DeployFailed(
        Diagnostic(
            "E643", f"the Docker Engine at {engine.host} refused", cause=cause.strip().rstrip("."), remedy=remedy
        )
    )


def port_in_use(port: int, address: str, cause: str) -> DeployFailed:
    """The port cannot be published."""
    return DeployFailed(
        Diagnostic(
            "E618",
            f"port {port} of {address} cannot be published by the Docker Engine",
            cause=cause,
            remedy="stop what has it (`docker ps` shows containers, `ss -ltnp` on the engine's machine everything), or set another"
            " `deploy: port:` in the spec",
            at=("deploy", "port"),
        )
    )


def is_taken(cause: str) -> bool:
    """Whether the engine says that a port is in use."""
    return _TAKEN.search(cause) is not None


def name_taken(name: str) -> DeployFailed:
    """A container or network has our name and is not ours."""
    return DeployFailed(
        Diagnostic(
            "E642",
            f"the Docker Engine has another `{name}`",
            cause="it has no label of mlo's for this deployment, so mlo does not touch it",
            remedy=f"remove or rename it (`docker inspect {name}` shows what it is), or choose another `metadata.name`",
        )
    )


def another_store(name: str, labels: Mapping[str, str]) -> DeployFailed:
    """Another store deploys this name to the engine."""
    home = labels.get(HOME, "an unknown store")
    return DeployFailed(
        Diagnostic(
            "E641",
            f"another store deploys `{name}` to this Docker Engine",
            cause=f"its containers and networks belong to the store {home}",
            remedy="apply, or `mlo destroy`, from that store (MLO_HOME); or choose another `metadata.name` here; if that store is"
            f" gone, remove its containers: docker rm --force --volumes $(docker ps --all --quiet --filter label=mlo.deployment={name});"
            f" then its networks: docker network rm $(docker network ls --quiet --filter label=mlo.deployment={name})",
        )
    )


def _explanation(error: BaseException | None) -> bool:
    """Whether it is an answer of the engine, rather than a lack of one."""
    return bool(getattr(error, "explanation", None))
