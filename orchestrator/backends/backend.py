"""What every backend gives: a folder, and where there is a server a command, paths to ask, a wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Backend", "InProcess", "Launch", "Packaging", "Program", "ServingSettings"]


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """Everything a backend's configuration is made from; two equal settings with equal samples give the same bytes.

    Attributes:
        name: the deployment's name; the model's name on the wire.
        backend: its name in `backends/table.py`.
        variant, format, precision: what is served, such as `onnx-int8`, `onnx`, `int8`.
        cpus: CPUs of `hardware:`; thread counts come from here, never from the machine's cores.
        memory: bytes of `hardware:`.
        max_batch_size: rows that go together at most; 1 turns batching off.
        max_delay: seconds the first request of a batch waits for company.
        startup_seconds: a generous bound on loading and warming up, from the measured load time.
        drain_seconds: how long a stopping server still answers.
        model_digest: of the variant's folder, in hex.
        spec_digest: of the spec with its defaults, in hex.
        decision_digest: sha256 of winner.json, which is what was decided without what was measured, in hex.
        tools: package → version, as measured; images pin these.
        samples: an npz file of inputs, one row for each sample, that a server may be warmed up with.
        devices: CUDA devices of one replica, numbered from 0, with an instance of the model on each; 0 serves on CPUs.
        cuda_graphs: whether calls on them are captured as CUDA graphs.
        batch_sizes: rows of the calls that were measured; a server may be warm at them. Empty where that is not told.
    """

    name: str
    backend: str
    variant: str
    format: str
    precision: str
    signature: Signature
    cpus: float
    memory: int
    max_batch_size: int
    max_delay: float
    startup_seconds: int
    drain_seconds: int
    model_digest: str
    spec_digest: str
    decision_digest: str
    tools: Mapping[str, str]
    samples: Path | None = None
    devices: int = 0
    cuda_graphs: bool = False
    batch_sizes: tuple[int, ...] = ()

    @property
    def threads(self) -> int:
        """Whole threads for one model instance: the CPUs rounded down, at least one."""
        return max(1, int(self.cpus))


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: an argument list, what is added to the environment, and the working directory.

    Attributes:
        container_file: where the id of a container is written if one serves; its processes are no children of the command.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    container_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """What a server is that no Python package brings: what was measured on it, was measured on this one.

    Attributes:
        name: of the program, or of the image that it is in.
        version: as the program says it, or the image's id.
        rendered: whether it is the version that the rendered images have.
    """

    name: str
    version: str
    rendered: bool

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for keys and reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class InProcess:
    """How a variant is opened without a server, to be verified and measured in the runtime that will serve it.

    Attributes:
        function: `module:function`, of the shape of `orchestrator.frameworks.source.runtime.OpenRuntime`.
        tools: the packages that run it, as their distributions are called.
    """

    function: str
    tools: tuple[str, ...]


class Packaging(Protocol):
    """One way of handing a variant over: a folder that a server, or a device, reads. Stateless."""

    name: str
    formats: tuple[str, ...]
    runtimes: Mapping[str, InProcess]
    """Format → how a variant of it is opened without a server; one for each of `formats`."""
    tools: tuple[str, ...]
    """Packages whose versions its behaviour depends on."""
    least_startup: int
    """Seconds that a start is given however fast it was measured: elsewhere the disk is cold and the node is busy."""

    def refuses(self, signature: Signature) -> str | None:
        """Why it cannot take a model with this signature ("it takes no strings"), or None; in one sentence, no full stop."""

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Fill the empty `folder` with the model and the configuration; byte for byte reproducible."""


class Backend(Packaging, Protocol):
    """One way of serving: a packaging with a server. The instances stand in `backends/table.py`."""

    def unavailable(self, devices: int = 0) -> str | None:
        """Why it cannot be started on this machine, with so many CUDA devices ("no Java 17 on the PATH"), or None."""

    def program(self, devices: int = 0) -> Program | None:
        """What would be started on this machine; None where that is Python packages alone, or nothing."""

    def notes(self, devices: int = 0) -> tuple[str, ...]:
        """What who reads a plan should know of how it is started on this machine, a sentence each without a full stop."""

    def devices(self, folder: Path) -> int:
        """How many CUDA devices a folder that it has written is served with; 0 for CPUs.

        Raises:
            OSError: the folder lacks the file that says it.
            ValueError: that file is not as it was written.
        """

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The command that serves `folder` at 127.0.0.1:`port` on this machine; only `scratch` is written to.

        It listens on loopback alone where the server can be told an address; `notes` says where it cannot.
        """

    def ready_path(self, name: str) -> str:
        """The path that answers 200 when, and only when, requests can be answered."""

    def infer_path(self, name: str) -> str:
        """The path that requests are posted to."""

    def encode(self, inputs: Mapping[str, np.ndarray]) -> tuple[bytes, Mapping[str, str]]:
        """A request's body and headers for one call."""

    def decode(self, body: bytes, headers: Mapping[str, str], signature: Signature) -> dict[str, np.ndarray]:
        """The outputs by name that a 200 answer's body holds.

        Args:
            body: of the answer.
            headers: of the answer.
            signature: of the model; not every protocol says names and dtypes.

        Raises:
            ValueError: the body is not what this backend answers.
        """
