"""What every backend is: a folder that it writes, and where it has a server a command, paths to ask, a wire format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.layout import Layout, LinkedLayout
from orchestrator.backends.wire import decode_json, encode_json
from orchestrator.spec.signature import Signature
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, RuntimeOptions

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Backend", "InProcess", "Launch", "Program", "Server", "ServingBackend", "ServingSettings"]


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
        options: how the variant is run, where that is not as the backend does it by itself.
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
    options: RuntimeOptions = DEFAULT_OPTIONS

    @property
    def threads(self) -> int:
        """Threads of all instances: what the options say, else the CPUs rounded down, at least one."""
        return self.options.total_threads(self.cpus)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: an argument list, what is added to the environment, and the working directory.

    Attributes:
        container_file: where the id of a container is written if one serves; its processes are no children of the command.
        handover: the option that names an inherited socket over which the server takes listening sockets over, as
            `orchestrator/server/handover.py` describes it; None where it can listen on its own port only.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    container_file: Path | None = None
    handover: str | None = None


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


@dataclass(frozen=True, slots=True)
class Server:
    """One backend's server in its container: what the Dockerfile, the compose file and the chart are made from.

    Attributes:
        dockerfile: the template, below `templates/docker/`.
        base, gpu_base: the image to build on for CPUs and for GPUs, where the spec names none. CUDA comes with the packages,
            the driver from outside.
        port: where requests go.
        metrics_port, metrics_path: where Prometheus reads.
        live_path: answers as long as a restart would not help, and is cheap; empty where only the port can tell.
        protocol: what a request's JSON is called.
        request_seconds: how long it lets requests finish at its end.
        answers_after_sigterm: whether it goes on while traffic is led away; else that has to happen before the signal.
        ready_failures: how often in a row its ready path refuses before requests go elsewhere; five seconds apart.
        packaged: whether it runs on Python packages, which the image installs.
        code: folder of the Docker context → folder with the server's own Python files, which are copied there.
        processes: how many processes and threads it may have.
        runs_from_tmp: whether it unpacks programs or libraries into /tmp and runs them there.
        readme: the template of what is said to whoever builds the image, below `templates/readme/`.
        notice: what whoever installs it should know; empty for nothing.
    """

    dockerfile: str
    base: str
    gpu_base: str
    port: int
    metrics_port: int
    metrics_path: str
    live_path: str
    protocol: str
    request_seconds: int
    answers_after_sigterm: bool
    ready_failures: int = 2
    packaged: bool = True
    code: Mapping[str, Path] = field(default_factory=dict)
    processes: int = 512
    runs_from_tmp: bool = False
    readme: str = "README.md.jinja"
    notice: str = ""


class Backend(ABC):
    """One way of handing a variant over: a folder that a server, or a device, reads. Stateless.

    What has no server of its own (a device runs what it hands over) is a `Backend`; what has one is a `ServingBackend`.
    The instances stand in `backends/table.py`.
    """

    name: str
    """As in the spec's `serving.backend` and in `backends/table.py`."""

    runtimes: Mapping[str, InProcess]
    """Format → how a variant of it is opened without a server; one for each format that it takes."""
    options: frozenset[str] = frozenset({"threads", "batching"})
    """The fields of `RuntimeOptions` that it heeds; a candidate that sets another one is refused."""
    tools: tuple[str, ...]
    """Packages whose versions its behaviour depends on; an image pins them."""

    least_startup: int = 60
    """Seconds that a start is given however fast it was measured: elsewhere the disk is cold and the node is busy."""

    maintained: bool = True
    """Whether it still gets security fixes. What does not has to be better than another to be picked, not as good."""

    sources: tuple[Path, ...] = ()
    """Files and folders beside its own folder that end up in what it writes, or write it: part of a result's key."""

    extras: Mapping[str, str] = MappingProxyType({})
    """Optional extra of mlo → what it lacks without that one, for `mlo doctor`."""

    cuda_graphs: bool = False
    """Whether it can capture calls on a GPU as CUDA graphs."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats whose variants it takes."""
        return tuple(self.runtimes)

    def refuses(self, signature: Signature) -> str | None:  # noqa: ARG002
        """Why it cannot take a model with this signature ("it takes no strings"), or None; in one sentence, no full stop."""
        return None

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str | None:  # noqa: ARG002
        """Why it does not run such a variant on so many CUDA devices, or None; as `refuses`."""
        return None

    def runtime_decides(self, *, served: bool) -> bool:
        """Whether a variant may be chosen by what its runtime showed, where no server of it was measured.

        Args:
            served: whether a server is wanted; otherwise a folder is.
        """
        return not served

    @abstractmethod
    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Fill the empty `folder` with the model and the configuration; byte for byte reproducible.

        Raises:
            FileNotFoundError: the variant lacks its model file.
        """

    def layout(self, folder: Path, name: str) -> Layout:  # noqa: ARG002
        """How several revisions lie in one folder that is deployed into, for the model `name`."""
        return LinkedLayout(folder)


class ServingBackend(Backend):
    """A backend with a server. What is not overridden is that of a server of the Open Inference Protocol v2."""

    server: Server

    def runtime_decides(self, *, served: bool) -> bool:  # noqa: ARG002
        """Not by default: what is served has to be measured in its server."""
        return False

    @abstractmethod
    def unavailable(self, devices: int = 0) -> str | None:
        """Why it cannot be started on this machine, with so many CUDA devices ("no Java 17 on the PATH"), or None."""

    def present(self, devices: int = 0) -> Mapping[str, Any] | bool:  # noqa: ARG002
        """What no package's version says of the server on this machine, as JSON; part of a measurement's key.

        False: it cannot be started. True: the packages in `tools` say all. It is asked for every plan, so it is quick.
        """
        return True

    def program(self, devices: int = 0) -> Program | None:  # noqa: ARG002
        """What would be started on this machine; None where that is Python packages alone, or nothing."""
        return None

    def notes(self, devices: int = 0) -> tuple[str, ...]:  # noqa: ARG002
        """What a reviewer of a plan should know of it and of how it is started here, each without a full stop."""
        return ()

    def image_values(self, settings: ServingSettings) -> Mapping[str, Any]:  # noqa: ARG002
        """What its Dockerfile's template asks for besides what every template gets; each use names the filter that checks it."""
        return {}

    @abstractmethod
    def devices(self, folder: Path) -> int:
        """How many CUDA devices a folder that it has written is served with; 0 for CPUs.

        Raises:
            OSError: the folder lacks the file that says it.
            ValueError: that file is not as it was written.
        """

    @abstractmethod
    def signature(self, folder: Path, name: str) -> Signature:
        """Of the model with this name on the wire, from a folder that it has written.

        Raises:
            OSError: the folder lacks the file that says it.
            ValueError: that file is not as it was written.
        """

    @abstractmethod
    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The command that serves `folder` at 127.0.0.1:`port` on this machine; only `scratch` is written to.

        It listens on loopback alone where the server can be told an address; `notes` says where it cannot.
        """

    @abstractmethod
    def ready_path(self, name: str) -> str:
        """The path that answers 200 when, and only when, requests can be answered."""

    def infer_path(self, name: str) -> str:
        """The path that requests are posted to."""
        return f"/v2/models/{name}/infer"

    def encode(self, inputs: Mapping[str, np.ndarray]) -> tuple[bytes, Mapping[str, str]]:
        """A request's body and headers for one call."""
        return encode_json(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],  # noqa: ARG002
        signature: Signature,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """The outputs by name that a 200 answer's body holds.

        Args:
            body: of the answer.
            headers: of the answer.
            signature: of the model; not every protocol says names and dtypes.

        Raises:
            ValueError: the body is not what this backend answers.
        """
        return decode_json(body)
