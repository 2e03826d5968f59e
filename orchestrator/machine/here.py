"""The facts about the machine and the project that a plan depends on, as one value that is observed before compiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.machine.cuda_devices import CudaDevices
from orchestrator.machine.fingerprint import Fingerprint
from orchestrator.machine.packages import NoCuda

__all__ = ["CudaHere", "Hashes", "Here", "NotObserved", "ServerHere"]


class NotObserved(LookupError):
    """A plan asks for something of the machine that was not looked at before it was compiled: a bug in what asks for it."""


@dataclass(frozen=True, slots=True)
class ServerHere:
    """Whether the server of one backend can be started on this machine.

    Attributes:
        present: its identity beyond package versions, as JSON and part of keys; False: it cannot be started; True: the
            versions of the backend's packages suffice.
        notes: what a reviewer of a plan should know about it and its start, a sentence each.
        lacking: why it cannot be started, a clause; empty if it can be.
        remedy: what to do about that.
    """

    present: Mapping[str, Any] | bool
    notes: tuple[str, ...] = ()
    lacking: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CudaHere:
    """The CUDA devices of this machine, and the installed packages that cannot use them.

    Attributes:
        cpu_builds: package → its row in the table, for packages that are installed as a build for CPUs.
    """

    devices: CudaDevices
    cpu_builds: Mapping[str, NoCuda] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hashes:
    """The hashes of the files that images may install.

    Attributes:
        known: `name==version` → sha256 of its files, for every platform; empty if they were not looked up.
        unlocked: why they are not known, a sentence without a full stop.
    """

    known: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlocked: str = ""


@dataclass(frozen=True, slots=True)
class Here:
    """The machine and the project. Compiling a plan and computing keys use this value only.

    Attributes:
        fingerprint: what measurements depend on.
        packages: package → version, for all packages that a plan may need; None for those that are not installed.
        assets: digest of mlo's own templates, charts and servers.
        servers: backend → its server; only backends that the spec may use, since looking for a server may take seconds.
        cuda: None for a spec without CUDA devices.
        factory_file: the user's module in `model.source.factory`; None if there is none.
        variables: each variable of `model.source.env` → the digest of its value; None where it is not set.
        weights_bytes: the size of the weights; None if it is not known without reading the model.
        random_samples: whether the samples are the random ones that `mlo init` generated.
        hashes: of the packages of images, if an image is wanted.
        cpu_flags: of the CPU, as Linux names them; the fingerprint has their digest.
    """

    fingerprint: Fingerprint
    packages: Mapping[str, str | None]
    assets: str = ""
    servers: Mapping[str, ServerHere] = field(default_factory=dict)
    cuda: CudaHere | None = None
    factory_file: Path | None = None
    variables: Mapping[str, str | None] = field(default_factory=dict)
    weights_bytes: int | None = None
    random_samples: bool = False
    hashes: Hashes = Hashes()
    cpu_flags: frozenset[str] = frozenset()

    def version(self, package: str) -> str | None:
        """The version of a package; None where it is not installed.

        Raises:
            NotObserved: no table of sources, formats or backends names it.
        """
        if package not in self.packages:
            raise NotObserved(
                f"a step needs the package {package}, and whether it is installed was not observed; only packages in the "
                "tables of sources, formats and backends are"
            )
        return self.packages[package]

    def missing(self, *groups: tuple[str, ...]) -> tuple[str, ...]:
        """The packages of these groups that are not installed, sorted.

        Raises:
            NotObserved: as `version`.
        """
        return tuple(sorted({name for group in groups for name in group if self.version(name) is None}))

    def server(self, backend: str) -> ServerHere:
        """The server of a backend that has one.

        Raises:
            NotObserved: the spec rules this backend out, so no candidate of it can be added to its plan.
        """
        if backend not in self.servers:
            raise NotObserved(
                f"a candidate of the backend {backend} cannot be added to this plan: `optimize.formats` or "
                f"`serving.backend` of the spec rules it out, so its server was not looked for (observed: "
                f"{', '.join(sorted(self.servers)) or 'none'})"
            )
        return self.servers[backend]
