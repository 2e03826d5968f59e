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
        cpu_builds: package → its row in the table, for packages that are installed as a build for CPUs.
    """

    devices: CudaDevices
    cpu_builds: Mapping[str, NoCuda] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Here:
    """The machine and the project. Compiling a plan and computing keys use this value only.

    Attributes:
        fingerprint: what measurements depend on.
        packages: package → version, for all packages that a plan may need; None for those that are not installed.
        assets: digest of mlo's own templates, charts and servers.
        servers: backend → its server; only backends that the spec may use.
        cuda: None for a spec without CUDA devices.
        factory_file: the user's module in `model.source.factory`; None if there is none.
        factory_packages: the distributions that install that module if it is not one of the user's files.
        random_samples: whether the samples are the random ones that `mlo init` generated.
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
