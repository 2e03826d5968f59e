"""The processes of a container that is measured: they are no children of the `docker run` that started it."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["container_process"]

_SECONDS = 20.0
_PROCESSES = Path("/proc")


def container_process(file: Path) -> int:
    """The id of a container's first process, as this machine counts.

    Args:
        file: holds the container's id.

    Raises:
        OSError: the engine does not answer, or runs its containers on another machine.
    """
    container = file.read_text(encoding="ascii").strip()
    argv = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the Docker Engine does not answer within {_SECONDS:g} s") from error
    if done.returncode != 0:
        raise ConnectionError(done.stderr.strip() or "the Docker Engine does not know the container")
    process = int(done.stdout)
    groups = _PROCESSES / str(process) / "cgroup"
    # An engine in a virtual machine counts its own processes: the same number is another's here, or nobody's.
    if not groups.exists() or container not in groups.read_text(encoding="ascii", errors="replace"):
        raise ProcessLookupError("the Docker Engine runs its containers on another machine")
    return process
