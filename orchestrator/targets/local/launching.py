"""Starts a release on this machine: the command of its backend, as an order for the deployment's supervisor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed
from orchestrator.targets.local.control import ControlRefusedError
from orchestrator.targets.local.lifetime import answered
from orchestrator.targets.local.logs import LOG_FILE
from orchestrator.targets.local.messages import Done, Launching, Recipe, ReservedPort, RevisionStatus, StartRevision
from orchestrator.targets.local.ports import LOOPBACK, url_of
from orchestrator.targets.target import Release

__all__ = ["launched", "not_up"]


def launched(folder: Path, release: Release, *, takes_over: bool) -> RevisionStatus:
    """Have the supervisor start a release, with the command of its backend; does not wait until it is ready.

    Args:
        folder: of the deployment.
        release: what to start.
        takes_over: whether it has the traffic once it is ready.

    Raises:
        DeployFailed: E606 no supervisor answers, E616 the backend cannot be started on this machine, E617 its folder is damaged, E618 the
            port for gRPC is in use.
        Busy: E605 another command has started this revision from something else.
    """
    recipe = Recipe(
        revision=release.revision,
        backend=release.backend,
        name=release.model,
        serving=str(release.serving.absolute()),
        threads=release.threads,
        startup_seconds=release.startup_seconds,
    )
    server, serving = serving_backend(recipe.backend), Path(recipe.serving)
    with _damaged(recipe):
        devices = server.devices(serving)
    missing = server.unavailable(devices)
    if missing is not None:
        raise DeployFailed(
            Diagnostic(
                "E616",
                f"{recipe.backend} cannot be started on this machine",
                cause=missing.reason,
                remedy=f"{missing.remedy}; or choose another `serving: backend:`",
            )
        )
    port, grpc_port = answered(folder, "POST", "/ports", ReservedPort).port, None
    scratch = folder / "scratch" / f"r{recipe.revision}-{port}"
    with ExitStack() as before_the_order:
        before_the_order.callback(shutil.rmtree, scratch, ignore_errors=True)
        scratch.mkdir(parents=True, exist_ok=True)
        with _damaged(recipe):
            launch = server.launch(serving, port=port, scratch=scratch, threads=recipe.threads)
            tls = server.certificate(serving) is not None
        argv = launch.argv
        if launch.grpc_port is not None:
            _open_grpc(folder)
            grpc_port = answered(folder, "POST", "/ports", ReservedPort).port
            argv = (*argv, launch.grpc_port, str(grpc_port))
        launching = Launching(
            argv=argv,
            env=dict(launch.env),
            cwd=str(launch.cwd),
            port=port,
            grpc_port=grpc_port,
            scratch=str(scratch),
            ready_path=server.ready_path(recipe.name),
            handover=launch.handover,
            tls=tls,
        )
        order = StartRevision(recipe=recipe, launching=launching, takes_over=takes_over)
        # From here on the server may have been started in it, even if no answer comes.
        unused = before_the_order.pop_all()
    try:
        state = answered(folder, "PUT", f"/revisions/{recipe.revision}", RevisionStatus, order)
    except ControlRefusedError as refused:
        unused.close()
        raise Busy(
            Diagnostic(
                "E605",
                f"revision {recipe.revision} is being deployed by another command",
                cause=str(refused),
                remedy="wait until it has ended, then run the command again",
            )
        ) from refused
    if state.endpoint != url_of(port, tls=tls):  # it had been started before
        unused.close()
    return state


def not_up(folder: Path, revision: int, state: RevisionStatus) -> DeployFailed:
    """Why a revision that was started is not ready: E603 it ended, E604 it has not become so in time."""
    reason = state.reason or f"the server is still {state.state}"
    tail = "".join(f"\n  {line}" for line in state.tail[-10:])
    ended = state.code is not None
    remedy = (
        "correct what its log ends with; if that is nothing of yours, choose another `serving.backend`"
        if ended
        else "if the machine was busy, run the same command again; if not, its log says what the server waits for"
    )
    return DeployFailed(
        Diagnostic(
            "E603" if ended else "E604",
            f"revision {revision} did not come up",
            cause=reason + (f"; the last lines of its log:{tail}" if tail else "; it printed nothing"),
            remedy=remedy,
            notes=(f"log: {folder / LOG_FILE}",),
        )
    )


@contextmanager
def _damaged(recipe: Recipe) -> Iterator[None]:
    """Turn a backend's error about a damaged folder into E617."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DeployFailed(
            Diagnostic(
                "E617",
                f"{recipe.backend} cannot be started from its folder",
                cause=str(error),
                remedy="run `mlo apply` again; it renders a damaged folder again",
                notes=(f"folder: {recipe.serving}",),
            )
        ) from error


def _open_grpc(folder: Path) -> None:
    """Have the supervisor listen for gRPC, at the port after the public one.

    Raises:
        DeployFailed: E618 it is in use.
    """
    try:
        answered(folder, "PUT", "/grpc", Done)
    except ControlRefusedError as refused:
        raise DeployFailed(
            Diagnostic(
                "E618",
                f"the port for gRPC, the one after the port for HTTP, cannot be used on {LOOPBACK}",
                cause=f"{refused}",
                remedy="stop what listens there (`ss -ltnp` shows it), or set another `deploy: port:` in the spec",
                notes=(f"log: {folder / LOG_FILE}",),
            )
        ) from refused
