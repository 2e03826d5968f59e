"""The control groups of this process, from its own up to the root; each may limit its CPUs and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["CGROUPS", "MOUNTED", "group_folders", "lines_of", "memory_limit"]

CGROUPS = Path("/proc/self/cgroup")
MOUNTED = Path("/sys/fs/cgroup")

_NO_LIMIT = 2**60
"""Version 1 of control groups represents "no limit" by a number of bytes close to 2^63."""


def group_folders(controller: str, cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> Iterator[Path]:
    """The folders of this process's groups that may contain a limit of `controller`, in versions 1 and 2.

    Args:
        controller: its name in version 1: `cpu`, `memory`.
        cgroups: the file that lists this process's groups.
        mounted: the folder with the files of all groups.
    """
    for line in lines_of(cgroups):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = mounted / controllers if controllers and (mounted / controllers).exists() else mounted
        root = root / controller if controllers and root == mounted else root
        group = root / path.strip("/")
        # In a container the path may be that of the host, which does not exist here; then the container's files are at the
        # root.
        yield from (folder for folder in (group, *group.parents) if folder == root or root in folder.parents)


def memory_limit(cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> int | None:
    """The smallest memory limit of this process's control groups, bytes; None without a limit."""
    limits = []
    for folder in group_folders("memory", cgroups, mounted):
        for file in ("memory.max", "memory.limit_in_bytes"):
            limits += [int(text) for text in lines_of(folder / file)[:1] if text.isdecimal()]
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def lines_of(path: Path) -> list[str]:
    """The lines of a small file of the kernel; none if it does not exist (another version, or no control groups)."""
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
