"""Checks the machine: CPUs, memory, GPUs, the store's disk, and what the system allows workers and measurements to do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil

from orchestrator.doctor.finding import Finding
from orchestrator.errors import StoreFailed
from orchestrator.machine.control_groups import memory_limit
from orchestrator.machine.cpus import confined, cpu_share, usable_cpus
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.machine.packages import PACKAGES, without_cuda
from orchestrator.process.environment import inherited_environment
from orchestrator.process.memory import format_bytes
from orchestrator.store.locks import probe_flock

if TYPE_CHECKING:
    from orchestrator.store.home import Home

__all__ = ["cpus", "gpu", "isolation", "memory", "pinning", "store"]

_SECONDS = 5.0
_LITTLE_MEMORY = 2 * 2**30
_LITTLE_DISK = 5 * 2**30
_NO_DISK = 2**20
_SMALLEST_MACHINE = 2.0


def cpus() -> list[Finding]:
    """How many of the machine's CPUs this process may use."""
    there, usable = os.cpu_count() or 1, usable_cpus()
    if usable >= there >= _SMALLEST_MACHINE:
        return [Finding("cpus", "ok", f"{there}, all usable")]
    if usable < _SMALLEST_MACHINE:
        lost = "the load generator and the measured server share a CPU, which increases the measured latency"
        remedy = "measure on a machine with at least 2 CPUs"
    else:
        lost = f"specs with `hardware.cpus` above {usable:g} are measured on {usable:g} CPUs"
        remedy = "raise the container's CPU limit or this process's CPU affinity, or measure on another machine"
    held = len(os.sched_getaffinity(0))
    why = f"affinity {held}" if usable == held else f"a quota of {usable:g}"
    found = f"{usable:g} of {there} usable" + (f" ({why})" if usable < there else "")
    return [Finding("cpus", "limited", found, lost, remedy)]


def pinning() -> list[Finding]:
    """Whether measured processes can be pinned to CPUs; starts a process the way measurements do."""
    script = "import os; print(len(os.sched_getaffinity(0)))"
    share = cpu_share(1)
    command = confined((sys.executable, "-I", "-S", "-c", script), share, on_parent_end=signal.SIGKILL)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.stdout.strip() == "1":
        return [Finding("pinning", "ok", "measured processes can be pinned to CPUs")]
    why = (done.stderr.strip().splitlines() or ["the affinity that was set has no effect"])[-1]
    return [
        Finding(
            "pinning",
            "missing",
            f"processes cannot be pinned to CPUs: {why}",
            costs="benchmark steps fail",
            remedy="allow sched_setaffinity and prctl in the container's seccomp profile",
        )
    ]


def memory() -> list[Finding]:
    """Total and available memory of the machine, or of the control group if its limit is lower."""
    machine, limit = psutil.virtual_memory(), memory_limit()
    most = machine.total if limit is None else min(limit, machine.total)
    left = min(machine.available, most)
    found = f"{format_bytes(left)} of {format_bytes(most)} available"
    if most < machine.total:
        found += f" (limited; the machine has {format_bytes(machine.total)})"
    if left >= _LITTLE_MEMORY:
        return [Finding("memory", "ok", found)]
    return [
        Finding(
            "memory",
            "limited",
            found,
            costs="a step that needs more is killed; conversion needs several times the model's size",
            remedy="stop other processes, or raise the container's memory limit",
        )
    ]


def gpu() -> list[Finding]:
    """The CUDA devices that this process may use, and whether the installed packages are built for CUDA."""
    devices = cuda_devices()
    if reason := devices.lacking(1):
        lost = "specs with `hardware: {accelerator: cuda}` are refused here"
        return [Finding("gpu", "missing", reason, lost, "for GPU deployments, measure on a machine with the same GPU")]
    found = f"{', '.join(devices.names)} (driver {devices.driver})"
    if lacking := without_cuda(PACKAGES):
        lost = f"{lacking.package} runs models on the CPU: the package is built without CUDA"
        return [Finding("gpu", "limited", found, lost, lacking.remedy)]
    return [Finding("gpu", "ok", found)]


def isolation() -> list[Finding]:
    """Whether a worker can drop network access before it loads a model; tried in a separate process."""
    script = "import sys; from orchestrator.engine.worker import drop_network; sys.exit(not drop_network())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=inherited_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return [Finding("workers' network", "ok", "dropped before a worker loads a model")]
    return [
        Finding(
            "workers' network",
            "limited",
            "this system does not let workers drop network access",
            costs="code in a model that runs on loading could access the network",
            remedy="allow user namespaces (user.max_user_namespaces, or the container's seccomp profile)",
        )
    ]


def store(home: Home) -> list[Finding]:
    """Whether the store is writable, how much space its disk has, and whether file locks work there."""
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    remedy = "set MLO_HOME to a folder that you can write to"
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return [_broken_store(f"{folder} is not a folder that you can write to", remedy)]
    free = shutil.disk_usage(folder).free
    if free < _NO_DISK:
        return [
            _broken_store(
                f"the disk of {folder} is full",
                "free some space (`mlo gc`), or set MLO_HOME to a folder on another disk",
            )
        ]
    try:
        problem = probe_flock(folder)
    except StoreFailed as error:
        return [_broken_store(error.diagnostics[0].cause or error.diagnostics[0].message, remedy)]
    found = f"{home.root}, {format_bytes(free)} free"
    room = Finding("store", "ok", found, essential=True)
    if free < _LITTLE_DISK:
        lost = "a run with a large model may fill the disk, because every variant is stored"
        room = Finding(
            "store",
            "limited",
            found,
            lost,
            "free some space (`mlo gc`), or set MLO_HOME to a folder on another disk",
            essential=True,
        )
    if problem is None:
        return [room, Finding("locks", "ok", "work on the store's file system")]
    lost = "concurrent runs could corrupt each other's results and measurements"
    return [room, Finding("locks", "limited", problem.cause, lost, problem.remedy)]


def _broken_store(found: str, remedy: str) -> Finding:
    return Finding("store", "missing", found, "no command that runs steps works", remedy, essential=True)
