"""The environment of child processes: a short list of this process's variables, which may hold secrets, and fixed ones."""

from __future__ import annotations

import os

__all__ = ["passed_on"]

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


_ALWAYS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Number GPUs by bus id, as mlo does; by default CUDA lists the fastest first."""


def passed_on() -> dict[str, str]:
    """The environment of a worker, a supervisor or a server, which run other people's models and code."""
    return {name: os.environ[name] for name in _NAMES if name in os.environ} | _ALWAYS
