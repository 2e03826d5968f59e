"""One revision in the supervisor: its server process, whether it is ready, its restarts, and the clients it still has."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import psutil

from orchestrator.process.children import guarded
from orchestrator.process.environment import inherited_environment
from orchestrator.targets.local.gateway.upstream import Upstreams
from orchestrator.targets.local.handover import Handover
from orchestrator.targets.local.journal import Journal, LineSplitter
from orchestrator.targets.local.messages import Launching, Recipe, RevisionState, RevisionStatus
from orchestrator.targets.local.ports import url_of

__all__ = ["Revision"]

_TAIL_LINES = 20
_IDLE_SECONDS = 30.0
"""How long connections that the server has accepted itself may be idle once its successor accepts."""
_STABLE_SECONDS = 30.0
"""A server that ran this long starts with a clean record after its next crash."""
_LONGEST_PAUSE = 10.0
_DEGRADED_AFTER = 3
"""Crashes in a row after which the deployment counts as degraded although it may answer just now."""
_POLITE_SECONDS = 3.0
"""From SIGTERM to the kill. Nothing is in flight then; a server that goes on listening for a while, as it has to where
others route to it, is not waited for."""
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a server did not come up or is gone; `code` is negative for a signal, None for a time-out."""

    text: str
    code: int | None


def describe(code: int) -> str:
    """An exit code in words, signals by name."""
    if code >= 0:
        return f"the server exited with code {code}"
    name = signal.Signals(-code).name
    hint = "; if no other process sent it, the machine ran out of memory" if name == "SIGKILL" else ""
    return f"the server was killed by {name}{hint}"


def _not_started(error: OSError) -> Ending:
    return Ending(f"the server cannot be started: {error}", None)


class Revision:
    """A server that is started, watched and, once it takes the traffic, restarted when it crashes.

    Attributes:
        ready: set while the server can answer.
        kept: it takes the traffic: after a crash it is started again. A candidate that crashes has failed.
        in_flight: requests that the gateway has sent to it; those of clients that it serves itself are not known here.
        upstreams: the gateway's connections to it.
    """

    def __init__(
        self,
        recipe: Recipe,
        launching: Launching,
        reserved: Sequence[socket.socket],
        journal: Journal,
        changed: Callable[[], None],
        *,
        kept: bool = False,
    ) -> None:
        """Start the server.

        Args:
            recipe: what is served.
            launching: how the server is started.
            reserved: keep its private ports free.
            journal: where its output goes.
            changed: called when the server has become ready, or is not ready any more.
            kept: see the class.
        """
        self.recipe = recipe
        self.launching = launching
        self.ready = asyncio.Event()
        self.kept = kept
        self.state: RevisionState = "starting"
        self.ending: Ending | None = None
        self.since: float | None = None
        self.in_flight = 0
        self.upstreams = Upstreams(launching.port)
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._handover: Handover | None = None
        self._changed = changed
        self._reserved = reserved
        self._journal = journal
        self._source = f"r{recipe.revision}"
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._crashes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: asyncio.Task[None] | None = None
        self._life = asyncio.create_task(self._live())

    @property
    def url(self) -> str:
        """Where the server listens."""
        return url_of(self.launching.port, tls=self.launching.tls)

    @property
    def degraded(self) -> bool:
        """Whether it does not answer now, or keeps crashing."""
        return self.state != "ready" or self._crashes >= _DEGRADED_AFTER

    def enter(self) -> None:
        """A request is about to be sent to it."""
        self.in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """That request is answered, or has failed."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    def status(self, *, serving: bool, healthy: bool | None = None) -> RevisionStatus:
        """The form that the control socket returns."""
        return RevisionStatus(
            recipe=self.recipe,
            state=self.state,
            reason=self.ending.text if self.ending else None,
            code=self.ending.code if self.ending else None,
            tail=tuple(self._tail),
            endpoint=self.url,
            pid=self._pid(),
            since=self.since,
            crashes=self._crashes,
            in_flight=self.in_flight,
            serving=serving,
            healthy=healthy,
        )

    @property
    def takes_sockets(self) -> bool:
        """Whether its server runs and is one that takes sockets over."""
        return self._handover is not None

    @property
    def run(self) -> Handover | None:
        """The connection to the server that runs now, if it takes sockets over."""
        return self._handover

    async def listen_on(self, listeners: Sequence[socket.socket], grpc_ports: Sequence[int]) -> bool:
        """Have the server accept on exactly these sockets; False if it cannot, or does not confirm.

        Args:
            listeners: all of them.
            grpc_ports: all shared ports for gRPC; of no meaning if it does not answer gRPC.
        """
        grpc = () if self.launching.grpc_port is None else grpc_ports
        return self._handover is not None and await self._handover.listen_on(listeners, _IDLE_SECONDS, grpc=grpc)

    async def take_back(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Have the server accept nothing new; what it has is finished.

        Args:
            idle_seconds: how long idle connections of sockets that it gives up stay open.
        """
        if self._handover is not None:
            await self._handover.listen_on((), idle_seconds, last=True)

    async def stop(self, drain_seconds: float) -> None:
        """Let requests in flight finish, then SIGTERM, then, if that does not help, kill. Frees everything it holds."""
        if self._ended is None:
            self._ended = asyncio.create_task(self._stop(drain_seconds))
        await asyncio.shield(self._ended)

    async def _stop(self, drain_seconds: float) -> None:
        deadline = time.monotonic() + drain_seconds
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), drain_seconds)
        if self._handover is not None:
            await self._handover.until_gone(max(0.0, deadline - time.monotonic()))
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            self._life.cancel()  # it waits to restart
        else:
            await self._end(process, _POLITE_SECONDS)
        try:
            with suppress(asyncio.CancelledError):
                await self._life
        finally:
            self.state = "stopped"
            self.ready.clear()
            self.upstreams.close_idle(0.0)
            await self._session.close()
            for held in self._reserved:
                held.close()
            await asyncio.to_thread(shutil.rmtree, self.launching.scratch, ignore_errors=True)  # only scratch: may stay
        self._journal.event(f"revision {self.recipe.revision} has stopped")

    async def _live(self) -> None:
        """Start, wait until ready, wait for the end; again after a crash if this revision takes the traffic."""
        while True:
            began = time.monotonic()
            self.ending = await self._run_once()
            if self._stopping:
                return
            self._journal.event(f"revision {self.recipe.revision}: {self.ending.text}")
            if not self.kept:
                self.state = "failed"
                return
            self.state = "restarting"
            self._crashes = 1 if time.monotonic() - began > _STABLE_SECONDS else self._crashes + 1
            await asyncio.sleep(min(_LONGEST_PAUSE, 0.05 * 2 ** min(self._crashes, 10)))

    async def _run_once(self) -> Ending:
        """Run the server process once, from its start to its end."""
        try:
            handover = None if self.launching.handover is None else Handover(self._changed)
        except OSError as error:  # no handle is left
            return _not_started(error)
        try:
            return await self._run_with(handover)
        finally:
            self._handover = None
            if handover is not None:
                handover.close()

    async def _run_with(self, handover: Handover | None) -> Ending:
        command = guarded(self.launching.argv)
        if handover is not None:
            command += [str(self.launching.handover), str(handover.fd)]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=self.launching.cwd,
                env={**inherited_environment(), **self.launching.env},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if handover is None else (handover.fd,),
            )
        except OSError as error:  # the folder is gone, or no process can be started
            return _not_started(error)
        self._process, self._handover = process, handover
        if handover is not None:
            handover.started()
        logging = asyncio.create_task(self._log(process))
        try:
            ending = await self._until_ready(process)
            if ending is None:
                self.state, self.since, self.ending = "ready", time.time(), None
                self.ready.set()
                self._journal.event(f"revision {self.recipe.revision} is ready on port {self.launching.port}")
                self._changed()
                await process.wait()
                self.state = "restarting"  # unless changed below
                self.ready.clear()
                self._changed()
            else:
                await self._end(process, 0.0)
            # The log is complete before the end is reported.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(logging), 2.0)
        finally:
            logging.cancel()
        assert process.returncode is not None
        return ending or Ending(describe(process.returncode), process.returncode)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> Ending | None:
        """None when the server's ready path answers 200; else why it did not come up."""
        bound = self.recipe.startup_seconds
        deadline = time.monotonic() + bound
        pause = 0.02
        while time.monotonic() < deadline:
            if await self.answers():
                return None
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), pause)
            if process.returncode is not None:
                return Ending(describe(process.returncode), process.returncode)
            pause = min(0.25, pause * 1.5)
        return Ending(f"the server was not ready after {bound} s", None)

    async def answers(self) -> bool:
        """Ask the server now whether it is ready."""
        with suppress(aiohttp.ClientError, TimeoutError):
            bound = aiohttp.ClientTimeout(total=2.0)
            # Unverified: the port was kept free for this server, and nothing is told.
            asked = self._session.get(self.url + self.launching.ready_path, timeout=bound, ssl=False)
            async with asked as response:
                await response.read()
                return response.status == 200
        return False

    async def _log(self, process: asyncio.subprocess.Process) -> None:
        """Copy what the server prints into the log."""
        assert process.stdout is not None
        splitter = LineSplitter()
        while data := await process.stdout.read(65536):
            for line in splitter.feed(data):
                self._tail.append(line)
                self._journal.write(self._source, line)
        for line in splitter.end():
            self._tail.append(line)
            self._journal.write(self._source, line)

    async def _end(self, process: asyncio.subprocess.Process, patience: float) -> None:
        """End the server and its child processes: with SIGTERM, then kill after `patience` seconds."""
        attempts = [(signal.SIGUSR1, _KILL_SECONDS)]
        if patience > 0:
            attempts.insert(0, (signal.SIGTERM, patience))
        for order, seconds in attempts:
            with suppress(ProcessLookupError):
                process.send_signal(order)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
                return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _pid(self) -> int | None:
        """The server's own process: the child of the guard that was started."""
        if self._process is None or self._process.returncode is not None:
            return None
        with suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children():
                return child.pid
        return self._process.pid
