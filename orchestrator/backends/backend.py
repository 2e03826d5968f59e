"""The interface of backends: a serving folder, and for servers a command, paths and a wire format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.backends.layout import Layout, LinkedLayout
from orchestrator.backends.server_metrics import ServerMetrics
from orchestrator.backends.wire import decode, encode_binary, encode_json
from orchestrator.spec.signature import Signature
from orchestrator.spec.types import HttpWire, Wire
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, RuntimeOptions
from orchestrator.steps.server_options import NO_LIMITS, ServerAuth, ServerLimits, ServerTls, ServerTraces

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Backend", "InProcess", "Launch", "Program", "Server", "ServingBackend", "ServingSettings", "Unavailable"]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a server cannot be started on this machine, and what to do; both without a full stop."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """Everything that a backend's configuration is made from; equal settings and samples give the same bytes.

    Attributes:
        name: the deployment's name; the model's name on the wire.
        backend: its name in `backends/table.py`.
        variant, format, precision: of the served model, such as `onnx-int8`, `onnx`, `int8`.
        cpus: CPUs of `hardware:`; thread counts are derived from it, never from the machine's cores.
        memory: bytes of `hardware:`.
        max_batch_size: maximum rows per batch; 1 turns batching off.
        max_delay: maximum seconds that the first request of a batch waits for others.
        startup_seconds: a generous limit on loading and warming up, from the measured startup time.
        drain_seconds: how long a stopping server still answers.
        model_digest: of the variant's folder, in hex.
        decision_digest: sha256 of winner.json, which has the decision without measurements, in hex.
        tools: package → version, as measured; images pin these.
        samples: an npz file of inputs, one row per sample, to warm up the server.
        devices: CUDA devices of one replica, numbered from 0, with an instance of the model on each; 0 serves on CPUs.
        cuda_graphs: whether calls on GPUs are captured as CUDA graphs.
        batch_sizes: the measured batch sizes, which a server may warm up; empty if unknown.
        grpc: whether it offers the Open Inference Protocol over gRPC too, at its `Server.grpc_port`.
        options: runtime options that differ from the backend's defaults.
        limits: what the server refuses.
        auth: where the tokens are that requests need; None if they need none.
        tls: where the server's certificate is; None for plain HTTP.
        cors_origins: whose pages may send requests from a browser.
        traces: where spans are sent; None if none are made.
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
    decision_digest: str
    tools: Mapping[str, str]
    samples: Path | None = None
    devices: int = 0
    cuda_graphs: bool = False
    batch_sizes: tuple[int, ...] = ()
    grpc: bool = False
    options: RuntimeOptions = DEFAULT_OPTIONS
    limits: ServerLimits = NO_LIMITS
    auth: ServerAuth | None = None
    tls: ServerTls | None = None
    cors_origins: tuple[str, ...] = ()
    traces: ServerTraces | None = None

    @property
    def threads(self) -> int:
        """Threads of all instances: what the options say, else the CPUs rounded down, at least one."""
        return self.options.total_threads(self.cpus)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: an argument list, additional environment variables, and the working directory.

    Attributes:
        container_file: the file to which the id of a container is written; its processes are not children of the command.
        grpc_port: the option for the port at which it answers gRPC; None if it does not.
        handover: the option for an inherited socket through which the server takes over listening sockets, as described in
            `orchestrator/server/handover.py`; None if it can only listen on its own port.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    container_file: Path | None = None
    grpc_port: str | None = None
    handover: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """The program of a server that does not come with a Python package, as it was measured.

    Attributes:
        name: of the program or its image.
        version: as printed by the program, or the image's id.
        rendered: whether rendered images have this version.
    """

    name: str
    version: str
    rendered: bool

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for keys and reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class InProcess:
    """How a variant is opened without a server, to verify and measure it in the runtime that will serve it.

    Attributes:
        function: `module:function` with the signature of `orchestrator.frameworks.source.runtime.OpenRuntime`.
        tools: the distributions that run it.
    """

    function: str
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """One backend's server in its container: values for the Dockerfile, the compose file and the chart.

    Attributes:
        dockerfile: the template, below `templates/docker/`.
        base, gpu_base: the base images for CPUs and GPUs, unless the spec sets one. CUDA comes with the packages, the driver
            with the machine.
        port: for requests.
        grpc_port: for requests over gRPC, if the spec asks for it; None if the server cannot do that.
        metrics_port, metrics_path: for Prometheus.
        live_path: a cheap path that fails if a restart would help; empty if only the port can be checked.
        protocol: the name of the request format.
        metrics: what it counts for Prometheus.
        request_seconds: how long running requests may take when it stops.
        answers_after_sigterm: whether it keeps answering while traffic is routed away; otherwise that must happen before the
            signal.
        at_once: arguments with which it does not go on answering after the signal, where traffic was routed away before; empty if it
            never does.
        ready_failures: consecutive failures of the ready path, five seconds apart, until requests are routed elsewhere.
        packaged: whether it consists of Python packages, which the image installs.
        code: folder of the Docker context → folder with the server's own Python files, which are copied there.
        processes: maximum number of processes and threads.
        runs_from_tmp: whether it unpacks programs or libraries into /tmp and runs them there.
        readme: the template of the README for the image, below `templates/readme/`.
        notice: shown after installation; may be empty.
    """

    dockerfile: str
    base: str
    gpu_base: str
    port: int
    metrics_port: int
    metrics_path: str
    live_path: str
    protocol: str
    metrics: ServerMetrics
    request_seconds: int
    answers_after_sigterm: bool
    grpc_port: int | None = None
    at_once: tuple[str, ...] = ()
    ready_failures: int = 2
    packaged: bool = True
    code: Mapping[str, Path] = field(default_factory=dict)
    processes: int = 512
    runs_from_tmp: bool = False
    readme: str = "README.md.jinja"
    notice: str = ""


class Backend(ABC):
    """Serves variants: writes a folder that a server or a device reads. Stateless.

    A backend with a server is a `ServingBackend`; one without, whose folder is run by a device, is a plain `Backend`. The
    instances are listed in `backends/table.py`.
    """

    name: str
    """As in the spec's `serving.backend` and in `backends/table.py`."""

    runtimes: Mapping[str, InProcess]
    """Format → how a variant of it is opened without a server; one for each supported format."""
    options: frozenset[str] = frozenset({"threads", "batching"})
    """The supported fields of `RuntimeOptions`; a candidate that sets another one is refused."""
    tools: tuple[str, ...]
    """Packages whose versions its behaviour depends on; an image pins them."""

    grpc_tools: tuple[str, ...] = ()
    """Packages that its server needs in addition to offer gRPC; none if it offers HTTP alone."""

    traces_tools: tuple[str, ...] = ()
    """Packages that its server needs in addition to send spans."""

    least_startup: int = 60
    """The minimum startup limit, seconds; a fast start here says little about a busy node with a cold disk."""

    least_memory: int = 0
    """What its server takes at least before it loads a model, bytes, well below what was seen; 0 if nobody has measured it."""

    maintained: bool = True
    """Whether it still gets security fixes; if not, it must be better than others to win, not just as good."""

    sources: tuple[Path, ...] = ()
    """Files and folders outside its own folder that determine what it writes; part of the keys of results."""

    extras: Mapping[str, str] = MappingProxyType({})
    """Optional extra of mlo → the feature that is missing without it, for `mlo doctor`."""

    cuda_graphs: bool = False
    """Whether it can capture calls on a GPU as CUDA graphs."""

    own_settings: frozenset[str] = frozenset()
    """The keys of `serving:` that it obeys and others may lack; a candidate is refused if the spec sets another one."""

    enforces: bool = False
    """Whether its server refuses requests with values that the spec does not allow, where the spec asks for it."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The supported formats."""
        return tuple(self.runtimes)

    def refuses(self, signature: Signature) -> str | None:  # noqa: ARG002
        """Why it does not support a model with this signature, in a sentence without a full stop; None if it does."""
        return None

    def refuses_on_cuda(self, format_name: str, precision: str, devices: int) -> str | None:  # noqa: ARG002
        """Why it does not run such a variant on this number of CUDA devices; see `refuses`."""
        return None

    def runtime_decides(self, *, served: bool) -> bool:
        """Whether a candidate may win by its runtime measurements if its server was not measured.

        Args:
            served: whether the target runs a server; otherwise it is a folder.
        """
        return not served

    @abstractmethod
    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        """Fill the empty `folder` with the model and the configuration; byte for byte reproducible.

        Raises:
            FileNotFoundError: the variant lacks its model file.
        """

    def layout(self, folder: Path, name: str) -> Layout:  # noqa: ARG002
        """The layout of several revisions in one deployment folder, for the model `name`."""
        return LinkedLayout(folder)


class ServingBackend(Backend):
    """A backend with a server. The defaults are those of a server with the Open Inference Protocol v2."""

    server: Server

    wires: tuple[Wire, ...] = ("json",)
    """How its server takes tensors; the first is the one that every client can use."""

    containers: bool = False
    """Whether it may start a container of the Docker Engine on this machine; its `launch` then says where the engine is."""

    def runtime_decides(self, *, served: bool) -> bool:  # noqa: ARG002
        """Not by default: a served model must be measured in its server."""
        return False

    @abstractmethod
    def unavailable(self, devices: int = 0) -> Unavailable | None:
        """Why it cannot be started on this machine with this number of CUDA devices; None if it can.

        It is called for every plan, so it must be fast.
        """

    def present(self, devices: int = 0) -> Mapping[str, Any] | bool:  # noqa: ARG002
        """The identity of the server on this machine beyond package versions, as JSON; part of a measurement's key.

        False: it cannot be started. True: the versions of `tools` suffice. It is called for every plan, so it must be fast.
        """
        return True

    def program(self, devices: int = 0) -> Program | None:  # noqa: ARG002
        """The program that would be started on this machine; None if it consists of Python packages, or there is none."""
        return None

    def notes(self, devices: int = 0) -> tuple[str, ...]:  # noqa: ARG002
        """What a reviewer of a plan should know about it and its start on this machine, each without a full stop."""
        return ()

    def image_values(self, settings: ServingSettings) -> Mapping[str, Any]:  # noqa: ARG002
        """Additional values for its Dockerfile's template; each use in the template has a filter that checks it."""
        return {}

    @abstractmethod
    def devices(self, folder: Path) -> int:
        """The number of CUDA devices that a folder written by it is served on; 0 for CPUs.

        Raises:
            OSError: the folder lacks the file with the number.
            ValueError: that file was changed.
        """

    @abstractmethod
    def signature(self, folder: Path, name: str) -> Signature:
        """The signature of the model with this name on the wire, from a folder written by it.

        Raises:
            OSError: the folder lacks the file with the signature.
            ValueError: that file was changed.
        """

    def max_body(self, folder: Path) -> int | None:  # noqa: ARG002
        """The bytes of the largest request, from a folder written by it; None if nothing has to be smaller for it.

        Raises:
            OSError: the folder lacks the file with the number.
            ValueError: that file was changed.
        """
        return None

    def token_file(self, folder: Path) -> Path | None:  # noqa: ARG002
        """The file with the tokens that requests need, from a folder written by it; None if they need none.

        Raises:
            OSError: the folder lacks the file that says so.
            ValueError: that file was changed.
        """
        return None

    def certificate(self, folder: Path) -> Path | None:  # noqa: ARG002
        """The file with the server's certificate, from a folder written by it; None if it takes plain HTTP.

        Raises:
            OSError: the folder lacks the file that says so.
            ValueError: that file was changed.
        """
        return None

    def queue(self, folder: Path, name: str) -> str:  # noqa: ARG002
        """How much may wait while the model is busy, in words, from a folder written by it; empty if nothing limits that.

        Args:
            folder: the serving folder.
            name: of the model on the wire.
        """
        return ""

    @abstractmethod
    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        """The command that serves `folder` at 127.0.0.1:`port` on this machine; it only writes to `scratch`.

        It only listens on loopback if the server has a setting for the address; otherwise `notes` mentions it.
        """

    @abstractmethod
    def ready_path(self, name: str) -> str:
        """The path that answers 200 if and only if requests can be answered."""

    def infer_path(self, name: str) -> str:
        """The path of inference requests."""
        return f"/v2/models/{name}/infer"

    def encode(self, inputs: Mapping[str, np.ndarray], wire: HttpWire) -> tuple[bytes, Mapping[str, str]]:
        """A request's body and headers for one call, in one of its `wires`."""
        return encode_binary(inputs) if wire == "binary" else encode_json(inputs)

    def decode(
        self,
        body: bytes,
        headers: Mapping[str, str],
        signature: Signature,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """The outputs by name in a 200 response.

        Args:
            body: of the response.
            headers: of the response, in lower case.
            signature: of the model; not every protocol has names and dtypes.

        Raises:
            ValueError: the response is not valid.
        """
        return decode(body, headers)
