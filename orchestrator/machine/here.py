"""The facts about the machine and the project that a plan depends on, as one value that is observed before compiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.machine.cuda_devices import CudaDevices
from orchestrator.machine.fingerprint import Fingerprint
from orchestrator.machine.packages import NoCuda

__all__ = ["CudaHere", "Here", "ServerHere"]


@dataclass(frozen=True, slots=True)
class ServerHere:
    """Whether the server of one backend can be started on this machine.

    Attributes:
        present: its identity beyond package versions, as JSON and part of keys; False: it cannot be started; True: the
            versions of the backend's packages suffice.
        notes: what a reviewer of a plan should know about it and its start, a sentence each.
    """

    present: Mapping[str, Any] | bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CudaHere:
    """The CUDA devices of this machine, and the installed packages that cannot use them.

    Attributes:
        cpu_builds: package → what is known of it, for packages that are installed as a build for CPUs.
    """

    devices: CudaDevices
    cpu_builds: Mapping[str, NoCuda] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Here:
    """The machine and the project. Compiling a plan and making keys read this value and look at nothing else.

    Attributes:
        fingerprint: what measurements depend on.
        packages: every package that a plan may ask for → its version; None where it is not installed.
        assets: digest of mlo's own templates, charts and servers.
        servers: backend → its server; only backends that the spec may use.
        cuda: None for a spec that asks for no CUDA devices.
        factory_file: the module of the user's that `model.source.factory` names; None where there is none.
        factory_packages: the distributions that bring that module where it is no file of the user's.
        random_samples: whether the file of samples is the random one of `mlo init`.
    """

    fingerprint: Fingerprint
    packages: Mapping[str, str | None]
    assets: str = ""
    servers: Mapping[str, ServerHere] = field(default_factory=dict)
    cuda: CudaHere | None = None
    factory_file: Path | None = None
    factory_packages: tuple[str, ...] = ()
    random_samples: bool = False

    def missing(self, *groups: tuple[str, ...]) -> tuple[str, ...]:
        """The packages of these groups that are not installed, sorted.

        Raises:
            KeyError: whether one of them is installed was not observed.
        """
        return tuple(sorted({name for group in groups for name in group if self.packages[name] is None}))
