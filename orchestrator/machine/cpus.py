"""The CPUs that a measurement runs on: as many whole CPUs as `hardware:` sets, or as this process may use."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from orchestrator.machine.control_groups import CGROUPS, MOUNTED, group_folders, lines_of

__all__ = [
    "CpuShare",
    "confined",
    "cpu_share",
    "other_cpus",
    "package_environment",
    "thread_environment",
    "usable_cpus",
]


@dataclass(frozen=True, slots=True)
class CpuShare:
    """The CPUs of this machine that stand for `hardware.cpus`.

    Attributes:
        wanted: the number in the spec; may be a fraction.
        cpus: the numbers of the used CPUs.
        threads: for one model; the CPUs of the spec rounded down, at least one, at most the CPUs that are used.
    """

    wanted: float
    cpus: tuple[int, ...]
    threads: int

    @property
    def how(self) -> str:
        """In words, such as `measured with 2 of 4 CPUs`."""
        whole = max(1, int(self.wanted))
        if len(self.cpus) < whole:
            return f"measured with {len(self.cpus)} of {self.wanted:g} CPUs: this machine has no more"
        if self.wanted != whole:
            return f"measured with {_count(whole)} instead of {self.wanted:g}: a fraction of a CPU cannot be measured"
        return f"measured with {_count(whole)}"


def _count(cpus: int) -> str:
    return "1 CPU" if cpus == 1 else f"{cpus} CPUs"


def cpu_share(wanted: float) -> CpuShare:
    """The first `wanted` (rounded down, at least one) of the CPUs that this process may use, or all of them."""
    cpus = _usable()[: max(1, int(min(wanted, usable_cpus())))]
    return CpuShare(wanted, cpus, len(cpus))


def other_cpus(share: CpuShare) -> CpuShare | None:
    """The CPUs that a share leaves for the load generator; None if it leaves none."""
    # A quota applies to all processes together: the generator must not use what the server may use.
    number = max(0, int(usable_cpus()) - len(share.cpus))
    left = tuple(cpu for cpu in _usable() if cpu not in share.cpus)[:number]
    return CpuShare(len(left), left, len(left)) if left else None


def usable_cpus(cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> float:
    """The number of CPUs that this process may keep busy: its affinity, or the quota of its control group if that is lower.

    The limit of a container is such a quota, and may be a fraction. All groups from this process's own up to the root are read,
    because each may have a quota: `cpu.max` in version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` in version 1.

    Args:
        cgroups: which groups this process is in.
        mounted: where their files are.
    """
    quotas = [_quota(folder) for folder in group_folders("cpu", cgroups, mounted)]
    return min([float(len(_usable())), *(quota for quota in quotas if quota is not None)])


def _quota(group: Path) -> float | None:
    """The number of CPUs that one control group allows; None without a limit."""
    limit = lines_of(group / "cpu.max")
    quota, period = limit[0].split() if limit else ("max", "0")
    if not limit:
        quota = next(iter(lines_of(group / "cpu.cfs_quota_us")), "max")
        period = next(iter(lines_of(group / "cpu.cfs_period_us")), "0")
    if quota in {"max", "-1"} or int(period) <= 0:
        return None
    return int(quota) / int(period)


def _usable() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def confined(command: tuple[str, ...], share: CpuShare, *, on_parent_end: signal.Signals) -> list[str]:
    """The argument list that runs `command` on the share's CPUs, and ends it when this process ends.

    The kernel sends the signal when the *thread* that started the process ends, so start it from a long-lived thread.
    """
    script = str(Path(__file__).parents[1] / "process" / "confine.py")
    cpus = ",".join(str(cpu) for cpu in share.cpus)
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(on_parent_end)), cpus, *command]


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables for the number of threads of OpenMP, MKL and OpenBLAS; by default they count all cores.

    Waiting threads sleep, like those of ONNX Runtime (`frameworks.onnx.runtime.session_options`): spinning is only faster if a
    process has the machine to itself, and a framework that spins must not be compared with one that does not.
    """
    count = str(threads)
    counts = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
    return {**counts, "OMP_WAIT_POLICY": "PASSIVE"}


def package_environment() -> dict[str, str]:
    """This process's environment, in which the package can be imported from any working directory."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}
