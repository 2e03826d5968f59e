"""The environment of child processes: a short list of this process's variables, which may hold secrets, and fixed ones."""

from __future__ import annotations

import os

__all__ = ["ENGINE_NAMES", "engine_environment", "inherited_environment"]

_NAMES = (
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "JAVA_HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "MLO_CRASH_AT",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
)


ENGINE_NAMES = frozenset({"DOCKER_CERT_PATH", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY"})
"""What Docker's client reads. Whoever reaches the engine can do anything on its machine, so only what starts containers gets it."""

_ALWAYS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Number GPUs by bus id, as mlo does; by default CUDA lists the fastest first."""


def inherited_environment() -> dict[str, str]:
    """The environment of a worker, a supervisor or a server, which run other people's models and code."""
    return {name: os.environ[name] for name in _NAMES if name in os.environ} | _ALWAYS


def engine_environment() -> dict[str, str]:
    """What says where the Docker Engine is, for a process that starts containers."""
    return {name: os.environ[name] for name in sorted(ENGINE_NAMES) if name in os.environ}
