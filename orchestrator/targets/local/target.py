"""A deployment on this machine, seen from the command line: observe it, start a candidate, switch to it, stop it.

Everything is asked of the deployment's supervisor (`supervisor.py`) over its control socket. What is true is observed:
a process id in a file is never trusted, the supervisor's lock and socket tell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed
from orchestrator.targets.local.control import (
    ENDPOINT_FILE,
    SERVING_FILE,
    ControlRefusedError,
    ControlUnreachableError,
    Launching,
    Recipe,
    ask,
    is_held,
)
from orchestrator.targets.local.lifetime import alone, is_running, start, stop
from orchestrator.targets.local.logs import LOG_FILE, read
from orchestrator.targets.local.ports import LOOPBACK, first_free
from orchestrator.targets.target import Candidate, Observed

__all__ = ["LocalTarget"]

_POLL_SECONDS = 0.05


class LocalTarget:
    """One deployment's folder and the process that serves it.

    Args:
        folder: `MLO_HOME/deployments/NAME`; created when the deployment is first started.
    """

    answers = True
    place = ""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def observe(self) -> Observed:
        """What is running, asked now; starts nothing."""
        port = self._read(ENDPOINT_FILE).get("port")
        endpoint = _url(port) if port else None
        if not self._folder.is_dir():
            return Observed(running=False, health="stopped", endpoint=None, **_NOTHING)
        try:
            status = ask(self._folder, "GET", "/status")
        except ControlUnreachableError:
            held = is_held(self._folder)
            return Observed(running=held, health="degraded" if held else "stopped", endpoint=endpoint, **_NOTHING)
        serving = status["serving"]
        if status["port"]:
            endpoint = _url(status["port"])
        if serving is None:
            return Observed(running=True, health="stopped", endpoint=endpoint, **_NOTHING)
        since = serving["since"]
        return Observed(
            running=True,
            health=serving["health"] if status["port"] else "degraded",
            endpoint=endpoint,
            revision=serving["recipe"]["revision"],
            backend=serving["recipe"]["backend"],
            pid=serving["pid"],
            since=None if since is None else datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds"),
        )

    def prepare(self, port: int | None = None) -> str:
        """Start the deployment's supervisor unless it runs, and return the public endpoint.

        A deployment keeps its port for life unless `port` asks for another; then the former one stays open until the
        next switch. What served before the supervisor went away (a reboot, `kill -9`) is started again.

        Raises:
            DeployFailed: E601 the supervisor does not start, E618 the port is in use.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with alone(self._folder):
            started = not is_running(self._folder)
            if started:
                start(self._folder)
            wanted = port or self._read(ENDPOINT_FILE).get("port") or first_free(self._folder.name)
            try:
                self._ask("PUT", "/port", {"port": wanted})
            except ControlRefusedError as refused:
                if started:
                    stop(self._folder)
                raise DeployFailed(
                    Diagnostic(
                        "E618",
                        f"port {wanted} of {LOOPBACK} cannot be used",
                        cause=f"{refused}".lower(),
                        remedy=f"stop what listens there (`ss -ltnp 'sport = :{wanted}'` shows it),"
                        " or set another `deploy: port:` in the spec",
                        notes=self._notes(),
                    )
                ) from refused
            self._restore()
        return _url(wanted)

    def start_candidate(
        self,
        revision: int,
        serving: Path,
        backend: str,
        name: str,
        threads: int,
        startup_seconds: int,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Candidate:
        """Start a server beside the one that takes the traffic and wait until it is ready.

        The same revision with the same arguments again returns the server that is there. A candidate that does not come
        up is dropped before the error is raised; the former revision is not touched.

        Args:
            revision: its number.
            serving: the rendered folder; it must stay for as long as this revision may be started again.
            backend: its name in `backends/table.py`.
            name: the model's name on the wire.
            threads: threads of one model instance.
            startup_seconds: bound on loading and warming up.
            progress: told what is waited for.

        Raises:
            DeployFailed: E603 it ended while starting, E604 it was not ready in time, E606 no supervisor answers,
                E616 the backend cannot be started on this machine.
            Busy: E605 another command has started this revision from something else.
        """
        recipe = Recipe(revision, backend, name, str(serving.absolute()), threads, startup_seconds)
        progress(f"starting {backend} for revision {revision}")
        state = self._launch(recipe, takes_over=False)
        with self._dropped_on_failure(state):
            deadline = time.monotonic() + startup_seconds + 15
            while state["state"] in ("starting", "restarting") and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                state = self._ask("GET", f"/revisions/{revision}")
            if state["state"] != "ready":
                raise self._not_up(revision, state)
        progress(f"revision {revision} is ready")
        return Candidate(revision, state["endpoint"], state["pid"])

    def check(self) -> None:
        """Nothing: what could be in the way, such as a port in use, can change until it is needed."""

    def highest(self) -> int:
        """0: the state knows all revisions of this store, and the place is this store's alone."""
        return 0

    def alone(self) -> AbstractContextManager[None]:
        """Nothing: the deployment's lock is enough."""
        return nullcontext()

    def switch(self, revision: int) -> tuple[str, ...]:
        """Send all new requests to a candidate that is ready. The former revision finishes its requests and stops.

        Raises:
            DeployFailed: E607 the revision is not ready any more, E606 no supervisor answers.
        """
        try:
            self._ask("POST", f"/revisions/{revision}/serve")
        except ControlRefusedError as refused:
            raise DeployFailed(
                Diagnostic(
                    "E607",
                    f"the traffic was not switched to revision {revision}",
                    cause=str(refused),
                    remedy="run `mlo apply` again",
                    notes=self._notes(),
                )
            ) from refused
        return ()

    def drop(self, revision: int) -> None:
        """Stop a candidate and remove what it wrote; one that is not there is no error."""
        if not is_held(self._folder):
            return
        try:
            self._ask("DELETE", f"/revisions/{revision}", seconds=30.0)
        except ControlRefusedError as refused:
            if refused.status != 404:
                raise DeployFailed(
                    Diagnostic(
                        "E607", f"revision {revision} cannot be dropped", cause=str(refused), notes=self._notes()
                    )
                ) from refused

    def stop(self) -> None:
        """Stop serving: take no more connections, answer what is under way, end every process. No error if none runs.

        Raises:
            DeployFailed: E601 the processes cannot be ended.
        """
        if self._folder.is_dir():
            stop(self._folder)
            (self._folder / SERVING_FILE).unlink(missing_ok=True)

    def logs(self, lines: int = 100, follow: bool = False) -> Iterator[str]:
        """The last lines of the deployment's log, then, if `follow`, each new one, without end.

        Raises:
            DeployFailed: E615 there is no log.
        """
        try:
            yield from read(self._folder, lines, on=follow)
        except FileNotFoundError as missing:
            raise DeployFailed(
                Diagnostic(
                    "E615",
                    f"{self._folder.name} has no log",
                    cause="it was never started on this machine",
                    remedy="run `mlo apply` with its spec",
                )
            ) from missing

    @contextmanager
    def _dropped_on_failure(self, state: dict[str, Any]) -> Iterator[None]:
        """Leave no candidate behind that nobody will switch to, after Ctrl-C neither."""
        try:
            yield
        except BaseException:
            if not state["serving"]:
                self.drop(state["recipe"]["revision"])
            raise

    @contextmanager
    def _damaged(self, recipe: Recipe) -> Iterator[None]:
        """What a backend says of a folder that is not as it was written, as E617."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise DeployFailed(
                Diagnostic(
                    "E617",
                    f"{recipe.backend} cannot be started from its folder",
                    cause=str(error),
                    remedy="run `mlo apply` again; a folder that is damaged is rendered anew",
                    notes=(f"folder: {recipe.serving}",),
                )
            ) from error

    def _launch(self, recipe: Recipe, *, takes_over: bool) -> dict[str, Any]:
        """Have the supervisor start the recipe; what it tells about the revision."""
        server, serving = serving_backend(recipe.backend), Path(recipe.serving)
        with self._damaged(recipe):
            devices = server.devices(serving)
        missing = server.unavailable(devices)
        if missing is not None:
            raise DeployFailed(
                Diagnostic(
                    "E616",
                    f"{recipe.backend} cannot be started on this machine",
                    cause=missing,
                    remedy="install what is missing, or choose another `serving: backend:`",
                )
            )
        port: int = self._ask("POST", "/ports")["port"]
        scratch = self._folder / "scratch" / f"r{recipe.revision}-{port}"
        scratch.mkdir(parents=True, exist_ok=True)
        with self._damaged(recipe):
            launch = server.launch(serving, port=port, scratch=scratch, threads=recipe.threads)
        launching = Launching(
            argv=launch.argv,
            env=dict(launch.env),
            cwd=str(launch.cwd),
            port=port,
            scratch=str(scratch),
            ready_path=server.ready_path(recipe.name),
            handover=launch.handover,
        )
        body = {"recipe": recipe.as_json(), "launching": launching.as_json(), "takes_over": takes_over}
        try:
            told: dict[str, Any] = self._ask("PUT", f"/revisions/{recipe.revision}", body)
        except ControlRefusedError as refused:
            raise Busy(
                Diagnostic(
                    "E605",
                    f"revision {recipe.revision} is being deployed by another command",
                    cause=str(refused),
                    remedy="wait until it has ended, then run the command again",
                )
            ) from refused
        return told

    def _restore(self) -> None:
        """Start again what served when the supervisor went away. Requests wait for it; it need not be ready here."""
        document = self._read(SERVING_FILE)
        if not document or self._ask("GET", "/status")["serving"] is not None:
            return
        recipe = Recipe.from_json(document)
        # What cannot be started any more stays down, as it is: the successor that is about to be started repairs that.
        with suppress(DeployFailed):
            self._launch(recipe, takes_over=True)

    def _not_up(self, revision: int, state: dict[str, Any]) -> DeployFailed:
        reason = state["reason"] or f"the server is still {state['state']}"
        tail = "".join(f"\n  {line}" for line in state["tail"][-10:])
        ended = state["code"] is not None
        return DeployFailed(
            Diagnostic(
                "E603" if ended else "E604",
                f"revision {revision} did not come up",
                cause=reason + (f"; the last lines of its log:{tail}" if tail else "; it printed nothing"),
                remedy="read the log; the previous revision keeps serving",
                notes=self._notes(),
            )
        )

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 10.0) -> Any:
        try:
            return ask(self._folder, method, path, body, seconds=seconds)
        except ControlUnreachableError as error:
            raise DeployFailed(
                Diagnostic(
                    "E606",
                    f"the supervisor of {self._folder.name} does not answer",
                    cause=str(error),
                    remedy="run `mlo apply` again; it starts what is not running",
                    notes=self._notes(),
                )
            ) from error

    def _read(self, file: str) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self._folder / file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return document

    def _notes(self) -> tuple[str, ...]:
        return (f"log: {self._folder / LOG_FILE}",)


_NOTHING: dict[str, None] = {"revision": None, "backend": None, "pid": None, "since": None}


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"
