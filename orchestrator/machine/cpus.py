"""The CPUs that a measurement runs on: as many whole ones as `hardware:` gives, or as there are."""

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
    """What `hardware.cpus` became on this machine.

    Attributes:
        wanted: as the spec says; may be a fraction.
        cpus: the numbers of the CPUs that are used.
        threads: for one model; the CPUs of the spec rounded down, at least one, at most the CPUs that are used.
    """

    wanted: float
    cpus: tuple[int, ...]
    threads: int

    @property
    def how(self) -> str:
        """In words, for a person: `measured with 2 of 4 CPUs`."""
        whole = max(1, int(self.wanted))
        if len(self.cpus) < whole:
            return f"measured with {len(self.cpus)} of {self.wanted:g} CPUs: this machine has no more"
        if self.wanted != whole:
            return f"measured with {_count(whole)} instead of {self.wanted:g}: a fraction of a CPU cannot be measured"
        return f"measured with {_count(whole)}"


def _count(cpus: int) -> str:
    return "1 CPU" if cpus == 1 else f"{cpus} CPUs"


def cpu_share(wanted: float) -> CpuShare:
    """The first CPUs of those that this process may use, `wanted` of them (whole, at least one) or all there are."""
    cpus = _usable()[: max(1, int(min(wanted, usable_cpus())))]
    return CpuShare(wanted, cpus, len(cpus))


def other_cpus(share: CpuShare) -> CpuShare | None:
    """The CPUs that a share leaves, for the load generator; None when it leaves none."""
    # A quota is one for all: what the server may use of it, the generator must not.
    number = max(0, int(usable_cpus()) - len(share.cpus))
    left = tuple(cpu for cpu in _usable() if cpu not in share.cpus)[:number]
    return CpuShare(len(left), left, len(left)) if left else None


def usable_cpus(cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> float:
    """How many CPUs this process may keep busy: those of its affinity, or the quota of its control group if that is less.

    A container's limit is such a quota, and may be a fraction. Groups are read from this process's own to the root, since
    each may have one: `cpu.max` in version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` in version 1.

    Args:
        cgroups: which groups this process is in.
        mounted: where their files are.
    """
    quotas = [_quota(folder) for folder in group_folders("cpu", cgroups, mounted)]
    return min([float(len(_usable())), *(quota for quota in quotas if quota is not None)])


def _quota(group: Path) -> float | None:
    """The CPUs that one control group allows; None for no limit."""
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
    """The argument list that runs `command` on the share's CPUs and ends it with this process.

    The kernel sends the signal when the *thread* that started the process ends, so start it from one that stays.
    """
    script = str(Path(__file__).parents[1] / "process" / "confine.py")
    cpus = ",".join(str(cpu) for cpu in share.cpus)
    return [sys.executable, "-I", "-S", script, str(os.getpid()), str(int(on_parent_end)), cpus, *command]


def thread_environment(threads: int) -> dict[str, str]:
    """What tells OpenMP, MKL and OpenBLAS how many threads to use; they would count the machine's cores.

    Threads that wait sleep, as those of ONNX Runtime do here (`ort_runtime.session_options`): spinning ones would be
    faster in a lone process only, and one framework must not spin while it is compared with another that does not.
    """
    count = str(threads)
    counts = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
    return {**counts, "OMP_WAIT_POLICY": "PASSIVE"}


def package_environment() -> dict[str, str]:
    """This process's environment with the package importable, wherever the child is started."""
    root = str(Path(__file__).resolve().parents[2])
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}
