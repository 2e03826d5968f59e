"""A backend's real server, started for measuring: from the folder that is deployed, on given CPUs, watched and stopped."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil

from orchestrator.backends.backend import ServingBackend, ServingSettings
from orchestrator.containers.engine import container_process
from orchestrator.machine.cpus import CpuShare, confined, package_environment
from orchestrator.process.memory import MemoryWatch, family, format_bytes, tree_cpu_seconds

__all__ = ["MeasuredServer", "ServerError"]

_POLL = 0.02
_REQUEST_TIMEOUT = 60.0
_LOG_LINES = 3
_KILLED_INSIDE = 128 + signal.SIGKILL
"""What a container exits with when the kernel has killed its server."""


class ServerError(Exception):
    """The server did not start, died, or answered wrongly; the message is a sentence for a person.

    Args:
        fate: of the candidate, in the server benchmark.
        message: why.
    """

    def __init__(self, fate: Literal["failed", "out of memory"], message: str) -> None:
        super().__init__(message)
        self.fate = fate


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class MeasuredServer:
    """One running server; use it as a context, which stops it.

    Args:
        backend: whose server it is.
        settings: what the folder is written from.
        variant: the variant's folder.
        share: the CPUs it runs on.
        memory: bytes for all its processes together; above it is killed.
        folder: an empty folder for its files, its scratch and its log.
    """

    def __init__(
        self,
        backend: ServingBackend,
        settings: ServingSettings,
        variant: Path,
        share: CpuShare,
        *,
        memory: int,
        folder: Path,
    ) -> None:
        self._backend = backend
        self._name = settings.name
        self._signature = settings.signature
        self._memory = memory
        self._grace = settings.drain_seconds + 10.0
        self._log = folder / "log.txt"
        serving, scratch = folder / "serving", folder / "scratch"
        serving.mkdir(parents=True)
        scratch.mkdir()
        backend.write_folder(settings, variant, serving)
        self.port = _free_port()
        launch = backend.launch(serving, port=self.port, scratch=scratch, threads=settings.threads)
        self._begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # SIGTERM, not SIGKILL: a front end ends its workers when it is asked to end.
                confined(launch.argv, share, on_parent_end=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**package_environment(), **launch.env},
                cwd=launch.cwd,
            )
        self._pid = self._process.pid
        self._container = launch.container_file
        self._watch = MemoryWatch(self._pid, memory)
        self._serving = serving

    @property
    def url(self) -> str:
        """Where requests are posted to."""
        return f"http://127.0.0.1:{self.port}{self._backend.infer_path(self._name)}"

    @property
    def peak(self) -> int:
        """The largest resident memory of its processes together, bytes."""
        return self._watch.peak

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used so far."""
        return tree_cpu_seconds(self._pid)

    def wait_ready(self, timeout: float) -> float:
        """Seconds from its start until it was ready.

        Raises:
            ServerError: it ended, or was not ready in time, or its processes cannot be seen.
        """
        path = self._backend.ready_path(self._name)
        while True:
            self.check()
            try:
                if self._ask("GET", path).status == http.HTTPStatus.OK:
                    seconds = time.monotonic() - self._begun
                    self._look_into_the_container()
                    return seconds
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() - self._begun > timeout:
                raise ServerError("failed", f"its server was not ready after {timeout:g} s: {self._last_words()}")
            time.sleep(_POLL)

    def first_request(self, body: bytes, headers: Mapping[str, str]) -> float:
        """Seconds that one request takes, whose answer is read and must hold every output.

        Args:
            body: the request's.
            headers: the request's.

        Raises:
            ServerError: the answer is not good.
        """
        begun = time.perf_counter()
        try:
            answer = self._ask("POST", self._backend.infer_path(self._name), body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.check()
            raise ServerError("failed", f"its server does not answer: {error}") from error
        seconds = time.perf_counter() - begun
        if answer.status != http.HTTPStatus.OK:
            said = answer.body[:200].decode(errors="replace").strip()
            raise ServerError("failed", f"its server answers with status {answer.status}: {said}")
        try:
            found = set(self._backend.decode(answer.body, answer.headers, self._signature))
        except ValueError as error:
            raise ServerError("failed", f"its server's answer cannot be read: {error}") from error
        outputs = {tensor.name for tensor in self._signature.outputs}
        if found != outputs:
            raise ServerError("failed", f"its server answers {sorted(found)} instead of {sorted(outputs)}")
        return seconds

    def check(self) -> None:
        """Whether it still runs.

        Raises:
            ServerError: it was killed for its memory, or ended.
        """
        if self._watch.exceeded:
            peak, limit = format_bytes(self._watch.peak), format_bytes(self._memory)
            raise ServerError("out of memory", f"its server ran out of memory: peak {peak} of {limit}")
        code = self._process.poll()
        if code == _KILLED_INSIDE and self._in_container():
            limit = format_bytes(self._memory)
            raise ServerError("out of memory", f"its server ran out of memory: its container has {limit}")
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise ServerError("failed", f"its server {how}: {self._last_words()}")

    def stop(self) -> None:
        """SIGTERM, time to drain, then SIGKILL for whatever of its processes is left; its files are removed."""
        members = family(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._grace)
            except subprocess.TimeoutExpired:
                members += [member for member in family(self._process.pid) if member not in members]
        for member in members:
            try:
                member.kill()  # psutil checks that the process id still means the same process
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._watch.close()
        shutil.rmtree(self._serving, ignore_errors=True)  # a copy of the model; the scratch folder goes with the step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _in_container(self) -> bool:
        return self._container is not None and self._container.exists()

    def _look_into_the_container(self) -> None:
        """Watch its processes from now on; their memory is limited by the engine."""
        if self._container is None or not self._in_container():
            return
        try:
            self._pid = container_process(self._container)
        except OSError as error:
            raise ServerError("failed", f"its server's memory and CPU time cannot be seen: {error}") from error
        self._watch.close()
        self._watch = MemoryWatch(self._pid, None)

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> _Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return _Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = self._log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-_LOG_LINES:]) or "it printed nothing"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
