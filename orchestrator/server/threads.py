"""The number of CPUs that this process may use: the container's limit, not the machine's cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["cpu_limit", "usable_threads"]


def usable_threads(configured: int | None, instances: int, limit: float) -> int:
    """The number of threads for the model: as configured, but at most the number of CPUs, and at least one per instance.

    Fractions of a CPU are not counted: with more threads than the limit, one would be paused during every call.
    """
    whole = max(1, math.floor(limit + 1e-6))
    return max(instances, whole if configured is None else min(configured, whole))


def cpu_limit(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float:
    """The minimum of the number of CPUs that this process is bound to, and the quota of each of its control groups.

    Reads version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`), whichever is mounted. Inside a container, the path in
    `process` may be the machine's, which is not visible there; then the mounted root is the container's.

    Args:
        root: where control groups are mounted.
        process: the control groups of this process.
    """
    limits = [float(len(os.sched_getaffinity(0)))]
    try:
        lines = process.read_text().splitlines()
    except OSError:
        lines = []
    groups = dict.fromkeys([(root, "")])
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            groups[root, path] = None
            groups[root / "unified", path] = None
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((controllers, "cpu", "cpu,cpuacct")):
                groups[root / name, path] = None
    for mount, path in groups:
        folder = mount / path.strip("/")
        for group in (folder, *folder.parents):
            if group != mount and mount not in group.parents:
                break
            quota = _quota(group)
            if quota is not None:
                limits.append(quota)
    return min(limits)


def _quota(group: Path) -> float | None:
    """One control group's CPUs; None if it sets no limit."""
    try:
        if (group / "cpu.max").exists():
            quota, _, period = (group / "cpu.max").read_text().strip().partition(" ")
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        if quota in {"max", "-1"}:
            return None
        return int(quota) / int(period or 100_000)
    except (OSError, ValueError, ZeroDivisionError):
        return None
