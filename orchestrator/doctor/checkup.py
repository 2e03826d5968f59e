"""What `mlo doctor` looks at: everything at once, each look bounded in time, and none changes anything."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.doctor.finding import Finding
from orchestrator.doctor.packages import core, extras, served, server
from orchestrator.doctor.programs import cluster, docker, helm

if TYPE_CHECKING:
    from orchestrator.store.home import Home

__all__ = ["SECONDS", "Look", "examine"]

SECONDS = 6.0
"""How long the looks may take, all together: a cluster behind a broken network answers late or never."""

Look = Callable[[], Sequence[Finding]]


@dataclass(slots=True)
class _Running:
    thread: threading.Thread
    findings: list[Finding] = field(default_factory=list)
    error: BaseException | None = None


def examine(find_home: Callable[[], Home]) -> dict[str, list[Finding]]:
    """Group → its rows.

    Args:
        find_home: where the store is or would be; it is not made. Called only if mlo's own packages are there.
    """
    own = core()
    if any(finding.broken for finding in own):
        return {"mlo": own}  # the other looks need what is missing
    from orchestrator.doctor import machine  # noqa: PLC0415 - it needs psutil

    home = find_home()
    groups: dict[str, dict[str, Look]] = {
        "packages": {"extras": extras},
        "backends": {name: partial(server, name) for name in served()},
        "deployment": {"docker": docker, "kubectl and cluster": cluster, "helm": helm},
        "machine": {
            "cpus": machine.cpus,
            "pinning": machine.pinning,
            "memory": machine.memory,
            "gpu": machine.gpu,
            "workers' network": machine.isolation,
            "store": partial(machine.store, home),
        },
    }
    return {"mlo": own} | in_time(groups, SECONDS)


def in_time(groups: Mapping[str, Mapping[str, Look]], seconds: float) -> dict[str, list[Finding]]:
    """Run all looks at once; one that has not answered when the time is over is a row that says so."""
    deadline = time.monotonic() + seconds
    running = {group: {name: _start(look) for name, look in looks.items()} for group, looks in groups.items()}
    return {
        group: [finding for name, look in looks.items() for finding in _wait(name, look, deadline, seconds)]
        for group, looks in running.items()
    }


def _start(look: Look) -> _Running:
    def run() -> None:
        try:
            running.findings = list(look())
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is waited for
            running.error = error

    # A daemon, so that a look which hangs does not keep the command from ending.
    running = _Running(threading.Thread(target=run, daemon=True))
    running.thread.start()
    return running


def _wait(name: str, running: _Running, deadline: float, seconds: float) -> list[Finding]:
    running.thread.join(max(0.0, deadline - time.monotonic()))
    if running.thread.is_alive():
        return [_late(name, seconds)]
    if isinstance(running.error, subprocess.TimeoutExpired):
        return [_late(name, running.error.timeout)]  # a process that a look waited for
    if running.error is not None:
        raise running.error
    return running.findings


def _late(name: str, seconds: float) -> Finding:
    return Finding(
        name,
        "limited",
        f"no answer within {seconds:g} s",
        costs="whatever needs it waits as long, or fails",
        remedy="find out what it waits for, a network, a disk or a busy CPU, and ask again",
    )
