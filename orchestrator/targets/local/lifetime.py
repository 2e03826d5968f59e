"""Starts and ends the supervisor of a deployment, from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.process.environment import passed_on
from orchestrator.store.locks import lock
from orchestrator.targets.local.control import ERROR_FILE, LOCK_FILE, LOCKED_EXIT, ControlUnreachableError, ask, is_held
from orchestrator.targets.local.logs import LOG_FILE

__all__ = ["is_running", "start", "starting", "stop"]

_PACKAGES = Path(__file__).parents[3]
"""The folder that `orchestrator` is imported from; it need not be installed."""
_START_SECONDS = 60.0
_STOP_SECONDS = 75.0
"""The supervisor lets requests finish (30 s, twice where a switch is just under way) and kills what stays."""
_POLL_SECONDS = 0.05
_ASK_SECONDS = 10.0


@contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Let one command at a time start the supervisor; others wait for it."""
    with lock(folder / "start.lock", timeout=2 * _START_SECONDS, info={"what": "starting the supervisor"}):
        yield


def is_running(folder: Path) -> bool:
    """Whether a supervisor answers; waits for one that is stopping to end.

    Raises:
        DeployFailed: E606 one is there but does not answer.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while is_held(folder):
        try:
            ask(folder, "GET", "/status", seconds=_ASK_SECONDS)
        except ControlUnreachableError as error:
            if time.monotonic() > deadline:
                raise DeployFailed(
                    Diagnostic(
                        "E606",
                        f"the supervisor of {folder.name} does not answer",
                        cause=str(error),
                        remedy=f"run `mlo destroy {folder.name}`, which ends it, then `mlo apply`",
                        notes=(f"log: {folder / LOG_FILE}",),
                    )
                ) from error
            time.sleep(_POLL_SECONDS)
        else:
            return True
    return False


def start(folder: Path) -> None:
    """Start a supervisor in the background; returns when its control socket answers.

    Raises:
        DeployFailed: E601 it does not start.
    """
    # The folder's own supervisor imports this package, installed or not.
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "orchestrator.targets.local.supervisor", "--folder", str(folder)]
    try:
        code = subprocess.run(
            command,
            env={**passed_on(), "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=_START_SECONDS,
        ).returncode
        cause = f"it exited with code {code}"
    except (OSError, subprocess.TimeoutExpired) as error:
        code, cause = 1, str(error)
    if code not in (0, LOCKED_EXIT):
        raise DeployFailed(
            Diagnostic(
                "E601",
                f"the supervisor of {folder.name} did not start",
                cause=cause,
                remedy="read its error output",
                notes=(f"error output: {folder / ERROR_FILE}", f"log: {folder / LOG_FILE}"),
            )
        )


def stop(folder: Path) -> None:
    """Ask the supervisor to end, wait for it, and kill it if it does not. No error if none runs.

    Raises:
        DeployFailed: E601 it cannot be ended.
    """
    try:
        ask(folder, "POST", "/stop", seconds=_ASK_SECONDS)
        deadline = time.monotonic() + _STOP_SECONDS
    except ControlUnreachableError:
        deadline = time.monotonic()
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not is_held(folder):
        return
    # The lock is held at this moment, so the process that wrote its id into it lives.
    os.kill(int((folder / LOCK_FILE).read_text(encoding="utf-8")), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_held(folder):
        if time.monotonic() > deadline:
            raise DeployFailed(
                Diagnostic(
                    "E601", f"the supervisor of {folder.name} cannot be ended", notes=(f"log: {folder / LOG_FILE}",)
                )
            )
        time.sleep(_POLL_SECONDS)
