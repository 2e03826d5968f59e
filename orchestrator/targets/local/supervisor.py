"""The process that keeps one deployment alive: holds its port, runs its servers, serves the control socket.

    python -m orchestrator.targets.local.supervisor --folder FOLDER

`mlo apply` starts it detached. It holds the lock of its folder for as long as it lives, so there is one at most, and
neither a stale socket nor a reused process id can be taken for it. It ends on request, when its folder is removed,
or when it had nothing to run for a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from aiohttp import web
from pydantic import ValidationError

from orchestrator.errors import DeployFailed, StoreFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.locks import try_lock
from orchestrator.store.record import first_problem
from orchestrator.targets.local.control import (
    CONTROL_SOCKET,
    ERROR_FILE,
    FAILED_ON_THE_WAY,
    LOCK_FILE,
    LOCKED_EXIT,
    PROTOCOL_HEADER,
    STOP_PATH,
    listen,
)
from orchestrator.targets.local.front import Front
from orchestrator.targets.local.journal import Journal
from orchestrator.targets.local.messages import (
    PROTOCOL,
    AnyMessage,
    Done,
    OpenPort,
    Refusal,
    ReservedPort,
    RevisionStatus,
    StartRevision,
    Status,
)
from orchestrator.targets.local.ports import reserve
from orchestrator.targets.local.records import Endpoint
from orchestrator.targets.local.revision import Revision

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["main"]

_LOCK_SECONDS = 2.0
_DRAIN_SECONDS = 30.0
_DROP_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_LEASE_SECONDS = 900.0
"""After this long without a request about it, a candidate was abandoned by an `apply` that was killed."""
_WATCH_SECONDS = 1.0
_ORPHAN_SECONDS = 2.0


class _RefusedError(Exception):
    """A control request that cannot be granted: status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Supervisor:
    """The state of one deployment and the operations of its control socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal(folder)
        self._front = Front(self._journal)
        self._revisions: dict[int, Revision] = {}
        self._asked: dict[int, float] = {}
        self._reserved: dict[int, socket.socket] = {}
        self._leaving: dict[asyncio.Task[None], Revision] = {}
        self._since = time.time()
        self._busy_at = time.monotonic()
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until stopped; `ready` is called once the control socket answers."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        control = listen(self._folder)
        inode = (self._folder / CONTROL_SOCKET).stat().st_ino
        runner = web.AppRunner(self._application(), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, control).start()
        self._journal.event(f"supervisor {os.getpid()} has started")
        ready()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _WATCH_SECONDS)
            self._watch(inode)
        # No more requests are accepted: a command that wants to start a supervisor waits for the lock.
        await runner.cleanup()
        await self._front.close()
        for former in list(self._leaving.values()):  # each of them may end meanwhile
            await former.take_back(idle_seconds=0.0)
        stopping = [revision.stop(_DRAIN_SECONDS) for revision in self._revisions.values()]
        # One that fails to stop must not keep the others running.
        for ended in await asyncio.gather(*stopping, *self._leaving, return_exceptions=True):
            if isinstance(ended, BaseException):
                self._journal.event(f"a server was not stopped properly: {ended!r}")
        await self._front.end()
        self._journal.event(f"supervisor {os.getpid()} has stopped")
        self._journal.close()

    def _watch(self, inode: int) -> None:
        """Stop when there is nothing to run; drop abandoned candidates; retry a failed handover."""
        now = time.monotonic()
        try:
            orphaned = (self._folder / CONTROL_SOCKET).stat().st_ino != inode
        except FileNotFoundError:
            orphaned = True
        if self._revisions:
            self._busy_at = now
        if orphaned or now - self._busy_at > _IDLE_SECONDS:
            self._stop.set()
        for number, revision in list(self._revisions.items()):
            if not revision.kept and now - self._asked[number] > _LEASE_SECONDS:
                self._journal.event(f"revision {number} was abandoned before it took the traffic")
                self._discard(number, _DROP_SECONDS)
        if not self._stop.is_set():
            self._front.retry()

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/status", _answering(self._status))
        application.router.add_put("/port", _answering(self._open_port))
        application.router.add_put("/grpc", _answering(self._open_grpc))
        application.router.add_post("/ports", _answering(self._reserve_port))
        application.router.add_put("/revisions/{number}", _answering(self._start))
        application.router.add_get("/revisions/{number}", _answering(self._show))
        application.router.add_delete("/revisions/{number}", _answering(self._drop))
        application.router.add_post("/revisions/{number}/serve", _answering(self._serve))
        application.router.add_post(STOP_PATH, _answering(self._order_stop, for_all=True))
        return application

    async def _status(self, _: web.Request) -> Status:
        """Everything; the server is asked now whether it is ready."""
        current = self._front.current
        serving = None
        if current is not None:
            healthy = not current.degraded and await current.answers()
            serving = current.status(serving=True, healthy=healthy)
        return Status(
            pid=os.getpid(),
            since=self._since,
            port=self._front.ports[0] if self._front.ports else None,
            grpc_port=self._front.grpc_ports[0] if self._front.grpc_ports else None,
            serving=serving,
            revisions={number: revision.state for number, revision in sorted(self._revisions.items())},
        )

    async def _open_port(self, request: web.Request) -> Done:
        """Listen on a public port; beside a former one, until a switch moves there or a dropped candidate stays here."""
        port = (await _order(request, OpenPort)).port
        # A server whose supervisor was killed holds the port for some more milliseconds, until its guard has ended it.
        kept = self._kept_endpoint()
        deadline = time.monotonic() + (_ORPHAN_SECONDS if kept is not None and port == kept.port else 0.0)
        while True:
            try:
                await self._front.open(port)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise _RefusedError(409, f"{error.strerror or error}") from error
            await asyncio.sleep(0.05)
        if self._front.current is None:
            await self._move_to_newest_port()
        return Done()

    async def _open_grpc(self, _: web.Request) -> Done:
        """Listen for gRPC too: a revision that answers it is about to be started."""
        deadline = time.monotonic() + _ORPHAN_SECONDS  # as for the port for HTTP
        while True:
            try:
                await self._front.open_grpc()
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise _RefusedError(409, f"port {error.filename}: {error.strerror or error}") from error
            else:
                return Done()
            await asyncio.sleep(0.05)

    async def _close_unused_grpc(self) -> None:
        """Listen for gRPC no longer than a revision answers it."""
        if self._front.grpc_ports and all(each.launching.grpc_port is None for each in self._revisions.values()):
            await self._front.close_grpc()

    def _kept_endpoint(self) -> Endpoint | None:
        """What the deployment had when it ran last."""
        with suppress(DeployFailed):  # the command that asks for a port reports it
            return Endpoint.read(self._folder)
        return None

    async def _move_to_newest_port(self) -> None:
        """From here on the port that was opened last is the deployment's."""
        if self._front.ports:
            port = self._front.ports[-1]
            grpc_port = port + 1 if port + 1 in self._front.grpc_ports else None
            current = self._front.current
            kept = self._kept_endpoint() if current is None else None
            tls = current.launching.tls if current is not None else kept is not None and kept.tls
            Endpoint(port=port, grpc_port=grpc_port, tls=tls).write(self._folder)
            await self._front.close_former_ports()

    async def _reserve_port(self, _: web.Request) -> ReservedPort:
        """A private port for a server that is about to be started."""
        held = reserve()
        port = int(held.getsockname()[1])
        self._reserved[port] = held
        asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._release, port)
        return ReservedPort(port=port)

    def _release(self, port: int) -> None:
        held = self._reserved.pop(port, None)
        if held is not None:
            held.close()

    async def _start(self, request: web.Request) -> RevisionStatus:
        """Start a candidate; the same recipe again returns the one that is there."""
        number = int(request.match_info["number"])
        order = await _order(request, StartRevision)
        recipe, launching = order.recipe, order.launching
        ports = [port for port in (launching.port, launching.grpc_port) if port is not None]
        present = self._revisions.get(number)
        if present is not None and present.state == "failed":
            self._discard(number, 0.0)
        elif present is not None:
            for port in ports:
                self._release(port)
            if present.recipe == recipe:
                return self._revision_status(number)
            raise _RefusedError(
                409, f"revision {number} is {present.state} already, started from {present.recipe.serving}"
            )
        for port in ports:
            if port not in self._reserved:
                raise _RefusedError(409, f"port {port} is not reserved")
        reserved = [self._reserved.pop(port) for port in ports]
        takes_over = order.takes_over and self._front.current is None
        revision = Revision(recipe, launching, reserved, self._journal, self._front.settle_soon, kept=takes_over)
        self._revisions[number] = revision
        self._journal.event(f"revision {number} is started from {recipe.serving} with {recipe.backend}")
        if takes_over:
            await self._front.serve(revision)
            await self._move_to_newest_port()
        return self._revision_status(number)

    async def _show(self, request: web.Request) -> RevisionStatus:
        number = self._known(request)
        return self._revision_status(number)

    async def _serve(self, request: web.Request) -> RevisionStatus:
        """Switch the traffic; the former revision stops when it has answered everything."""
        number = self._known(request)
        revision, former = self._revisions[number], self._front.current
        if revision is not former:
            if not revision.ready.is_set():
                reason = revision.ending.text if revision.ending else "it is not ready"
                raise _RefusedError(409, f"revision {number} cannot take the traffic, it is {revision.state}: {reason}")
            revision.kept = True
            await self._front.serve(revision)
            self._journal.event(f"revision {number} takes the traffic")
            if former is not None:
                await former.take_back()
                self._discard(former.recipe.revision, _DRAIN_SECONDS)
            await self._close_unused_grpc()
        await self._move_to_newest_port()
        return self._revision_status(number)

    async def _drop(self, request: web.Request) -> Done:
        """Give up a candidate, and the ports that were opened for it; answers when its processes are gone.

        It may have failed before it was started, so one that is not there is no error.
        """
        number = int(request.match_info["number"])
        revision = self._revisions.get(number)
        if revision is not None and revision is self._front.current:
            raise _RefusedError(409, f"revision {number} takes the traffic and cannot be dropped")
        try:
            if (stopping := self._discard(number, _DROP_SECONDS)) is not None:
                await stopping
        finally:
            await self._front.close_newer_ports()
            await self._close_unused_grpc()
        return Done()

    async def _order_stop(self, _: web.Request) -> Done:
        self._stop.set()
        return Done()

    def _discard(self, number: int, drain_seconds: float) -> asyncio.Task[None] | None:
        """Stop a revision in the background; None if another request has discarded it meanwhile."""
        revision = self._revisions.pop(number, None)
        if revision is None:
            return None
        task = asyncio.create_task(revision.stop(drain_seconds))
        self._leaving[task] = revision
        task.add_done_callback(self._leaving.pop)
        return task

    def _known(self, request: web.Request) -> int:
        number = int(request.match_info["number"])
        if number not in self._revisions:
            raise _RefusedError(404, f"there is no revision {number} here")
        return number

    def _revision_status(self, number: int) -> RevisionStatus:
        """A revision's status for a client; notes that the client asked for it."""
        self._asked[number] = time.monotonic()
        revision = self._revisions[number]
        return revision.status(serving=revision is self._front.current)


async def _order(request: web.Request, kind: type[AnyMessage]) -> AnyMessage:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise _RefusedError(400, f"this is no {kind.__name__}: {first_problem(error)}") from error


def _answering(
    operation: Callable[[web.Request], Coroutine[Any, Any, Strict]], *, for_all: bool = False
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The operation as a handler: its answer as JSON, a refusal as a status with the reason.

    Args:
        operation: what is done.
        for_all: whether requests of every version of the protocol are obeyed.
    """

    async def handler(request: web.Request) -> web.Response:
        theirs = request.headers.get(PROTOCOL_HEADER)
        if not for_all and theirs != str(PROTOCOL):
            spoken = "no numbered protocol" if theirs is None else f"protocol {theirs}"
            return _response(426, Refusal(error=f"this supervisor speaks protocol {PROTOCOL}, the request {spoken}"))
        try:
            return _response(200, await operation(request))
        except _RefusedError as refused:
            return _response(refused.status, Refusal(error=str(refused)))
        except (OSError, StoreFailed) as error:  # the disk is full, no process or handle is left: a part may be done
            return _response(FAILED_ON_THE_WAY, Refusal(error=str(error)))

    return handler


def _response(status: int, message: Strict) -> web.Response:
    return web.Response(
        status=status,
        body=message.model_dump_json(),
        content_type="application/json",
        headers={PROTOCOL_HEADER: str(PROTOCOL)},
    )


def _lock(folder: Path) -> int | None:
    """The folder's lock, or None where another process keeps it. Checking it holds it for an instant."""
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        if try_lock(handle):
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            return handle
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def _serve(folder: Path, ready: Callable[[], None]) -> int:
    """Run the supervisor of `folder`; `ready` is called once the control socket answers."""
    if _lock(folder) is None:
        return LOCKED_EXIT
    os.chdir(folder)
    # Every connection is a handle or two, and the soft limit is often 1024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))

    async def run() -> None:
        await Supervisor(folder).run(ready)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return 0


def main() -> int:
    """Start a supervisor in the background; returns 0 as soon as its control socket answers."""
    parser = argparse.ArgumentParser(description="Keep one local deployment alive. Started by mlo.")
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder.resolve()
    started, starting = os.pipe()
    child = os.fork()  # no thread and no event loop is there yet
    if child:
        os.close(starting)
        if os.read(started, 1):
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(started)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDONLY)
    errors = os.open(folder / ERROR_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for handle, stream in ((nowhere, 0), (errors, 1), (errors, 2)):
        os.dup2(handle, stream)

    def ready() -> None:
        os.write(starting, b"1")
        os.close(starting)

    return _serve(folder, ready)


if __name__ == "__main__":
    sys.exit(main())
