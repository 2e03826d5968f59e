"""A backend's real server for the benchmark: started from the folder that is deployed, on given CPUs, and watched."""

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
from orchestrator.diagnostics import Diagnostic
from orchestrator.machine.cpus import CpuShare, confined, package_environment
from orchestrator.measure.certificate import client_context
from orchestrator.measure.container import ContainerServer
from orchestrator.measure.failure import MeasureError, above_limit, out_of_memory
from orchestrator.measure.load_connections import LOOPBACK
from orchestrator.process.children import ended_by, start_logged
from orchestrator.process.environment import ENGINE_NAMES
from orchestrator.process.memory import MemoryWatch, format_bytes, process_tree, tree_cpu_seconds
from orchestrator.steps.context import Ending

__all__ = ["FirstAnswer", "MeasuredServer"]

_POLL = 0.02
_REQUEST_TIMEOUT = 60.0
_LOG_LINES = 3
_OUT_OF_MEMORY = "its server ran out of memory"
_KILLED_INSIDE = 128 + signal.SIGKILL
"""The exit code of a container whose server was killed by the kernel."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """How long the first request took, and how large its answer's body was."""

    seconds: float
    size: int


class MeasuredServer:
    """One running server; a context manager that stops it.

    Args:
        backend: whose server it is.
        settings: from which its folder is written.
        variant: the variant's folder.
        share: the CPUs it runs on.
        memory: bytes for all its processes together; it is killed if it uses more.
        folder: an empty folder for its files, its scratch folder and its log.
        container: runs it in a container; None for a process of this machine, as the backend starts it.
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
        container: ContainerServer | None = None,
    ) -> None:
        self._backend = backend
        self._name = settings.name
        self._signature = settings.signature
        self._context = None if settings.tls is None else client_context()
        self._memory = memory
        self._grace = settings.drain_seconds + 10.0
        self._log = folder / "log.txt"
        serving, scratch = folder / "serving", folder / "scratch"
        serving.mkdir(parents=True)
        scratch.mkdir()
        self.host = LOOPBACK
        self.port = _free_port()
        self.grpc_port = _free_port() if settings.grpc else 0
        if container is not None:
            launch = container.launch(scratch, self.port, self.grpc_port)
        else:
            backend.write_folder(settings, variant, serving)
            launch = backend.launch(serving, port=self.port, scratch=scratch, threads=settings.threads)
        argv = launch.argv
        if settings.grpc and container is None:
            assert launch.grpc_port is not None, "only a server that has gRPC is asked for it"
            argv += (launch.grpc_port, str(self.grpc_port))
        self._begun = time.monotonic()
        self._process = start_logged(
            # SIGTERM, not SIGKILL: on SIGTERM a front end stops its workers.
            confined(argv, share, on_parent_end=signal.SIGTERM),
            self._log,
            env=_without_engine(package_environment()) | dict(launch.env),
            cwd=launch.cwd,
        )
        self._pid = self._process.pid
        self._container = launch.container_file
        # The engine limits a container; what is watched until it is ready is the command that runs it.
        self._watch = MemoryWatch(self._pid, memory if container is None else None)
        self._serving = serving

    @property
    def path(self) -> str:
        """The path of inference requests."""
        return self._backend.infer_path(self._name)

    @property
    def inside(self) -> Literal["process", "container"]:
        """Whether it runs in a container."""
        return "container" if self._in_container() else "process"

    @property
    def peak(self) -> int:
        """The peak resident memory of all its processes together, bytes."""
        return self._watch.peak

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used so far."""
        return tree_cpu_seconds(self._pid)

    def wait_ready(self, timeout: float) -> float:
        """Seconds from its start until it was ready.

        Raises:
            MeasureError: it exited, was not ready in time, or its processes cannot be observed.
        """
        path = self._backend.ready_path(self._name)
        while True:
            self.check()
            try:
                if self._ask("GET", path).status == http.HTTPStatus.OK:
                    seconds = time.monotonic() - self._begun
                    self._watch_container()
                    return seconds
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() - self._begun > timeout:
                late = Diagnostic("E604", f"its server was not ready after {timeout:g} s", cause=self._last_output())
                raise MeasureError(Ending.TIMEOUT, late)
            time.sleep(_POLL)

    def first_request(self, body: bytes, headers: Mapping[str, str]) -> FirstAnswer:
        """Send one request and check that its answer has every output.

        Args:
            body: of the request.
            headers: of the request.

        Raises:
            MeasureError: there is no valid answer.
        """
        begun = time.perf_counter()
        try:
            answer = self._ask("POST", self.path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.check()
            raise _wrong_answer("its server did not answer the first request", str(error)) from error
        seconds = time.perf_counter() - begun
        if answer.status != http.HTTPStatus.OK:
            text = answer.body[:200].decode(errors="replace").strip()
            raise _wrong_answer(f"its server answered the first request with status {answer.status}", text)
        try:
            found = set(self._backend.decode(answer.body, answer.headers, self._signature))
        except ValueError as error:
            raise _wrong_answer("its server's answer cannot be read", str(error)) from error
        outputs = {tensor.name for tensor in self._signature.outputs}
        if found != outputs:
            raise _wrong_answer(f"its server answered with outputs {sorted(found)} instead of {sorted(outputs)}", "")
        return FirstAnswer(seconds, len(answer.body))

    def check(self) -> None:
        """Check that it is still running.

        Raises:
            MeasureError: it ran out of memory or exited.
        """
        if self._watch.exceeded:
            raise above_limit(self._watch.peak, self._memory, "its server")
        code = self._process.poll()
        if code == _KILLED_INSIDE and self._in_container():
            raise out_of_memory(f"its container is limited to {format_bytes(self._memory)}", _OUT_OF_MEMORY)
        if code is not None:
            killed = ended_by(code)
            how = f"exited with code {code}" if killed is None else f"was killed by {killed}"
            raise MeasureError(Ending.DIED, Diagnostic("E404", f"its server {how}", cause=self._last_output()))

    def stop(self) -> None:
        """Send SIGTERM, wait for it to drain, kill its remaining processes, and remove its files."""
        members = process_tree(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self._grace)
            except subprocess.TimeoutExpired:
                members += [member for member in process_tree(self._process.pid) if member not in members]
        for member in members:
            try:
                member.kill()  # psutil checks that the process id was not reused
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        self._watch.close()
        shutil.rmtree(
            self._serving, ignore_errors=True
        )  # a copy of the model; the scratch folder is removed with the step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _in_container(self) -> bool:
        return self._container is not None and self._container.exists()

    def _watch_container(self) -> None:
        """Watch the container's processes from now on; the engine limits their memory."""
        if self._container is None or not self._in_container():
            return
        try:
            self._pid = container_process(self._container)
        except OSError as error:
            message = "the memory and CPU time of its server cannot be observed"
            raise MeasureError(Ending.EXCEPTION, Diagnostic("E616", message, cause=str(error))) from error
        self._watch.close()
        self._watch = MemoryWatch(self._pid, None)

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> _Answer:
        connection = self._connection()
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return _Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=_REQUEST_TIMEOUT)
        return http.client.HTTPSConnection(self.host, self.port, timeout=_REQUEST_TIMEOUT, context=self._context)

    def _last_output(self) -> str:
        lines = self._log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-_LOG_LINES:]) or "it printed nothing"


def _wrong_answer(message: str, cause: str) -> MeasureError:
    return MeasureError(Ending.EXCEPTION, Diagnostic("E612", message, cause=cause))


def _without_engine(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what says where the Docker Engine is: a backend that starts containers adds it itself."""
    return {name: value for name, value in environment.items() if name not in ENGINE_NAMES}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
