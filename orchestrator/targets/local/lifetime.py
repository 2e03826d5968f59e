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
from typing import TYPE_CHECKING

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.process.environment import inherited_environment
from orchestrator.store.locks import lock
from orchestrator.targets.local.control import (
    ERROR_FILE,
    LOCK_FILE,
    LOCKED_EXIT,
    ControlUnreachableError,
    ControlVersionError,
    ask,
    holder,
    is_held,
    order_stop,
)
from orchestrator.targets.local.logs import LOG_FILE
from orchestrator.targets.local.messages import AnyMessage, Status

if TYPE_CHECKING:
    from orchestrator.spec.strict import Strict

__all__ = ["answered", "is_running", "start", "starting", "stop", "unanswered"]

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
        DeployFailed: E606 one is there but does not answer, or speaks another protocol.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while is_held(folder):
        try:
            ask(folder, "GET", "/status", Status, seconds=_ASK_SECONDS)
        except ControlVersionError as error:
            raise unanswered(folder, error) from error
        except ControlUnreachableError as error:
            if time.monotonic() > deadline:
                raise unanswered(folder, error) from error
            time.sleep(_POLL_SECONDS)
        else:
            return True
    return False


def answered(
    folder: Path,
    method: str,
    path: str,
    answer: type[AnyMessage],
    order: Strict | None = None,
    *,
    seconds: float = _ASK_SECONDS,
) -> AnyMessage:
    """What the supervisor answers to an order, as `control.ask`.

    Raises:
        DeployFailed: E606 it does not answer.
        ControlRefusedError: it refuses.
    """
    try:
        return ask(folder, method, path, answer, order, seconds=seconds)
    except ControlUnreachableError as error:
        raise unanswered(folder, error) from error


def unanswered(folder: Path, error: ControlUnreachableError) -> DeployFailed:
    """E606: what a command says that cannot talk to the supervisor, and the way out."""
    process = holder(folder) if is_held(folder) else None
    if isinstance(error, ControlVersionError) and process is not None:
        what = f"this version of mlo cannot talk to the supervisor of {folder.name}"
        remedy = (
            f"use the version of mlo that started it; or end it with `kill {process}`, which lets it answer the requests that "
            "it has, then run `mlo apply`, which starts the live revision again with this version"
        )
    elif process is not None:
        what = f"the supervisor of {folder.name} does not answer"
        remedy = f"end it with `kill -9 {process}`, then run `mlo apply`, which starts the live revision again"
    else:
        what = f"the supervisor of {folder.name} does not answer"
        remedy = "run `mlo apply` again; it starts the supervisor if it is not running"
    return DeployFailed(Diagnostic("E606", what, cause=str(error), remedy=remedy, notes=(f"log: {folder / LOG_FILE}",)))


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
            env={**inherited_environment(), "PYTHONPATH": os.pathsep.join(paths)},
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
                remedy="its error output ends with the reason; correct that, then run the same command again",
                notes=(f"error output: {folder / ERROR_FILE}", f"log: {folder / LOG_FILE}"),
            )
        )


def stop(folder: Path) -> None:
    """Ask the supervisor to end, wait for it, and kill it if it does not. No error if none runs.

    Raises:
        DeployFailed: E601 it cannot be ended.
    """
    try:
        order_stop(folder, _ASK_SECONDS)
        deadline = time.monotonic() + _STOP_SECONDS
    except ControlUnreachableError:
        deadline = time.monotonic()
    while is_held(folder) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not is_held(folder):
        return
    process = holder(folder)  # the lock is held at this moment, so the process that wrote its id into it lives
    if process is not None:
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_held(folder):
        if process is None or time.monotonic() > deadline:
            raise DeployFailed(
                Diagnostic(
                    "E601",
                    f"the supervisor of {folder.name} cannot be ended",
                    cause="" if process is not None else f"{folder / LOCK_FILE} does not hold its process id",
                    remedy=f"end the process that holds {folder / LOCK_FILE} (`fuser` shows it), then try again",
                    notes=(f"log: {folder / LOG_FILE}",),
                )
            )
        time.sleep(_POLL_SECONDS)
