"""Runs a container for as long as a process lives: it gets the process's signals, and the process its output.

`python -m orchestrator.containers.attached FILE` runs the container that the JSON of FILE describes: `image`, `options`,
`secrets` (see `run_container`; none if left out), and `file`, to which its id is written.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from orchestrator.containers.engine import EngineError, connected

__all__ = ["run_container", "started_by", "sweep_containers"]

_LABEL = "mlo.started-by"
"""The label of its containers: the machine and the process that created it."""

_ENGINE_SECONDS = 30.0


def run_container(image: str, options: Mapping[str, Any], file: Path, secrets: Mapping[str, str] = {}) -> int:
    """Run a container to its end with this process's output and signals; returns its exit code.

    The container is removed whenever this returns, also if a signal comes before it is started: `auto_remove` only removes
    what has run. One whose process was killed is removed by the next one.

    Args:
        image: that the engine has.
        options: of `docker.containers.create`; `stdin_open` for a command that ends when no process is attached any more.
        file: to which the container's id is written.
        secrets: file in the container, in a volume of its own → file here whose content it gets, for the image's user alone. They go
            there by the engine's API, and with the container.

    Raises:
        EngineError: the engine does not respond, or refuses.
    """
    from docker.utils.socket import frames_iter  # noqa: PLC0415 - as above

    signals = _ForwardedSignals()
    if secrets:
        options = {**options, "volumes": sorted({str(PurePosixPath(path).parent) for path in secrets})}
    with connected(_ENGINE_SECONDS) as client:
        sweep_containers(client.api)
        container = client.containers.create(image, labels=started_by(), **options)
        try:
            for path, source in secrets.items():
                where, content = PurePosixPath(path), Path(source).read_bytes()
                container.put_archive(
                    str(where.parent), _packed(where.name, content, container.attrs["Config"]["User"])
                )
            file.write_text(str(container.id), encoding="ascii")
            ended: list[int] = []
            waiting = threading.Thread(
                target=lambda: ended.append(container.wait(timeout=None, condition="next-exit")["StatusCode"]),
                daemon=True,
            )
            attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            if signals.received is not None:
                return 128 + signals.received
            waiting.start()
            container.start()
            signals.forward(lambda: _unless_gone(lambda: container.kill(signal.SIGTERM)))
            for stream, frame in frames_iter(attached, tty=False):  # type: ignore[no-untyped-call]
                os.write(stream, frame)
            waiting.join(_ENGINE_SECONDS)
        finally:
            _unless_gone(lambda: container.remove(force=True, v=True))
    return ended[0] if ended else 1


def _packed(name: str, content: bytes, user: str) -> bytes:
    """A tar file with one file, which is the user's alone; `user` is a number, with a group's behind a colon or without."""
    owner, _, group = user.partition(":")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.uid, member.gid = len(content), 0o400, int(owner), int(group or owner)
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class _ForwardedSignals:
    """SIGTERM and SIGINT from now on: remembered, and forwarded once there is a receiver."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._send: Callable[[], None] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def forward(self, send: Callable[[], None]) -> None:
        """Call `send` for each signal, including one that was received before."""
        self._send = send
        if self.received is not None:
            send()

    def _receive(self, number: int, _: object) -> None:
        self.received = number
        if self._send is not None:
            self._send()


def sweep_containers(api: Any) -> None:
    """Remove the containers of processes of this machine that are gone, whether or not they were started.

    Args:
        api: of the engine.
    """
    for row in api.containers(all=True, filters={"label": _LABEL}):
        host, _, process = row["Labels"][_LABEL].rpartition(" ")
        if host == os.uname().nodename and not _lives(process):
            _unless_gone(partial(api.remove_container, row["Id"], force=True, v=True))


def started_by() -> dict[str, str]:
    """The label of a container that goes with this process: `sweep_containers` removes it once the process is gone."""
    return {_LABEL: f"{os.uname().nodename} {os.getpid()}/{psutil.Process().create_time():.2f}"}


def _lives(process: str) -> bool:
    pid, _, created = process.partition("/")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False


def _unless_gone(request: Callable[[], object]) -> None:
    """Send a request about a container, which may have ended or be removed just now."""
    from docker.errors import APIError  # noqa: PLC0415 - as above

    try:
        request()
    except APIError as error:
        if error.status_code not in (404, 409):
            raise


def _main(file: str) -> None:
    described = json.loads(Path(file).read_text(encoding="utf-8"))
    options = described["options"]
    options["ports"] = {port: tuple(address) for port, address in options["ports"].items()}  # which JSON makes lists
    try:
        sys.exit(run_container(described["image"], options, Path(described["file"]), described.get("secrets", {})))
    except EngineError as error:
        sys.exit(f"the Docker Engine cannot run the container: {error}")


if __name__ == "__main__":
    _main(*sys.argv[1:2])
