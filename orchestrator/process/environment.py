"""What of this process's environment its children see, a short list since secrets live there, and what all of them are told."""

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
"""GPUs are numbered as the bus has them, which is how mlo names and counts them; CUDA itself would put the fastest first."""


def passed_on() -> dict[str, str]:
    """The environment of a worker, a supervisor or a server: models and their code come from others."""
    return {name: os.environ[name] for name in _NAMES if name in os.environ} | _ALWAYS
