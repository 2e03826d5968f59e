"""Runs the checks of `mlo doctor` in parallel, with a time limit; none of them changes anything."""

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

__all__ = ["SECONDS", "Check", "examine"]

SECONDS = 6.0
"""Time limit for all checks together: a cluster behind a broken network answers late or never."""

Check = Callable[[], Sequence[Finding]]


@dataclass(slots=True)
class _Running:
    thread: threading.Thread
    findings: list[Finding] = field(default_factory=list)
    error: BaseException | None = None


def examine(find_home: Callable[[], Home]) -> dict[str, list[Finding]]:
    """Group → its findings.

    Args:
        find_home: returns where the store is or would be, without creating it. Only called if mlo's own packages are installed.
    """
    own = core()
    if any(finding.broken for finding in own):
        return {"mlo": own}  # the other checks need the missing packages
    from orchestrator.doctor import machine  # noqa: PLC0415 - imports psutil

    home = find_home()
    groups: dict[str, dict[str, Check]] = {
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


def in_time(groups: Mapping[str, Mapping[str, Check]], seconds: float) -> dict[str, list[Finding]]:
    """Run all checks in parallel; a check that does not finish in time becomes a finding that says so."""
    deadline = time.monotonic() + seconds
    running = {group: {name: _start(check) for name, check in checks.items()} for group, checks in groups.items()}
    return {
        group: [finding for name, check in checks.items() for finding in _wait(name, check, deadline, seconds)]
        for group, checks in running.items()
    }


def _start(check: Check) -> _Running:
    def run() -> None:
        try:
            running.findings = list(check())
        except BaseException as error:  # noqa: BLE001 - raised again in _wait
            running.error = error

    # A daemon, so that a check that hangs does not keep the command from exiting.
    running = _Running(threading.Thread(target=run, daemon=True))
    running.thread.start()
    return running


def _wait(name: str, running: _Running, deadline: float, seconds: float) -> list[Finding]:
    running.thread.join(max(0.0, deadline - time.monotonic()))
    if running.thread.is_alive():
        return [_late(name, seconds)]
    if isinstance(running.error, subprocess.TimeoutExpired):
        return [_late(name, running.error.timeout)]  # a process that the check waited for
    if running.error is not None:
        raise running.error
    return running.findings


def _late(name: str, seconds: float) -> Finding:
    return Finding(
        name,
        "limited",
        f"no answer within {seconds:g} s",
        costs="commands that need it also hang or fail",
        remedy="check the network, the disk and the CPU load, then run `mlo doctor` again",
    )
