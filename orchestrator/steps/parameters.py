"""The parameters of each kind of step: built by the planner, read by step functions, passed as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self

from orchestrator.spec.gates import Precision
from orchestrator.spec.models import Objective
from orchestrator.spec.signature import Signature
from orchestrator.spec.source_models import SourceKind, Task
from orchestrator.spec.types import ImageRef, LabelKey, LabelValue, Name, Origin, RegistryPrefix, Wire
from orchestrator.steps.pass_options import AnyPassOptions
from orchestrator.steps.runtime_options import DEFAULT_OPTIONS, Batching, RuntimeOptions
from orchestrator.steps.server_options import NO_LIMITS, ServerAuth, ServerLimits, ServerTls, ServerTraces

__all__ = [
    "Accelerator",
    "BuildParameters",
    "CandidateParameters",
    "CodeAccess",
    "ConvertParameters",
    "DeploymentParameters",
    "ImageParameters",
    "ImportParameters",
    "InspectParameters",
    "OptimizeParameters",
    "Parameters",
    "Platform",
    "ProbeParameters",
    "RandomSamplesParameters",
    "RefusedParameters",
    "RenderParameters",
    "RoundParameters",
    "RuntimeBenchmarkParameters",
    "SearchFate",
    "SearchedParameters",
    "SelectParameters",
    "ServerBenchmarkParameters",
    "ServiceLevel",
    "ServingParameters",
    "SourceParameters",
    "TensorNames",
    "VerifyParameters",
]

Accelerator = Literal["none", "cuda"]
"""Where models run: on the CPU, or on CUDA devices."""

Platform = Literal["linux/amd64", "linux/arm64"]
"""What an image runs on, as Docker names it."""


class Parameters:
    """The base of all parameters: frozen, and read strictly, so that a missing or unknown key is an error at once.

    They are plain dataclasses, since planning builds thousands of them; what reads them in a worker has pydantic check them.
    """

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, for keys and worker requests; `from_json` reads it back."""
        document: dict[str, Any] = _plain(self)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The parameters that `as_json` wrote.

        Raises:
            ValueError: a key is missing, unknown or of another type.
        """
        from pydantic import TypeAdapter  # noqa: PLC0415 - processes that are measured import this module

        return TypeAdapter(cls).validate_json(json.dumps(dict(document)))


_AS_IT_IS = frozenset({type(None), bool, int, float, str})


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:  # most values are, and a plan has thousands
        return value
    if names := _fields_of(kind):  # type: ignore[arg-type] # mypy takes no class for hashable
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (tuple, list)) else value


@cache
def _fields_of(kind: type) -> tuple[str, ...]:
    """The names of a dataclass's fields; none for anything else."""
    return tuple(each.name for each in fields(kind)) if is_dataclass(kind) else ()


@dataclass(frozen=True, slots=True)
class TensorNames(Parameters):
    """The spec's name of each tensor → the model's own; empty where tensors are identified by their position."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    def of(self, role: Literal["inputs", "outputs"]) -> Mapping[str, str]:
        """Those of the inputs or of the outputs."""
        return self.inputs if role == "inputs" else self.outputs


@dataclass(frozen=True, slots=True)
class SourceParameters(Parameters):
    """How the source model is loaded.

    Attributes:
        factory, kwargs, weights_key: of a state dict of PyTorch.
        path, env: as in `CodeAccess`.
        signature: which signature of a SavedModel; None for the default one, and for other kinds.
        task: of a folder of the Transformers library.
    """

    kind: SourceKind
    factory: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    weights_key: str | None = None
    path: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    signature: str | None = None
    task: Task = "auto"
    names: TensorNames = TensorNames()


@dataclass(frozen=True, slots=True)
class CodeAccess(Parameters):
    """What a step needs that runs the user's code.

    Attributes:
        path: folders that modules are imported from besides the spec's own, relative to it.
        env: names of environment variables that the code reads.
    """

    path: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InspectParameters(Parameters):
    """Parameters of the steps that read a model's tensors from its file."""

    source: SourceParameters


@dataclass(frozen=True, slots=True)
class ProbeParameters(Parameters):
    """Parameters of the step that finds out what a model takes, for `mlo init`.

    Attributes:
        signature: as proposed.
        stated: the dimensions whose range the model itself states.
    """

    source: SourceParameters
    signature: Signature
    stated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RandomSamplesParameters(Parameters):
    """Parameters of the step that writes the random samples of `mlo init`.

    Attributes:
        source: only where samples are texts that the model's tokenizer makes into tensors.
        inner_batch: as in `ImportParameters`.
    """

    signature: Signature
    seed: int
    source: SourceParameters | None = None
    inner_batch: str | None = None


@dataclass(frozen=True, slots=True)
class ImportParameters(Parameters):
    """Parameters of the step that proves a source.

    Attributes:
        seed: of random samples, where the spec gives none.
        max_rows: samples that are used at most.
        one_by_one: why requests are answered one by one, as far as it is known; otherwise empty.
        inner_batch: the batch dimension that the spec names, if it is not the first of every input.
    """

    source: SourceParameters
    signature: Signature
    seed: int
    max_rows: int
    one_by_one: str = ""
    inner_batch: str | None = None


@dataclass(frozen=True, slots=True)
class ConvertParameters(Parameters):
    """Parameters of the step that converts a source into a format.

    Attributes:
        accept_traced: places in the model's code, such as `net.py:9`, that a trace may freeze.
    """

    source: SourceParameters
    accept_traced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizeParameters(Parameters):
    """Parameters of one pass over a variant.

    Attributes:
        seed: of the choice of calibration samples.
        options: of the pass; None for one that has none.
        accept_traced: as in `ConvertParameters`; empty for a pass that starts from a converted variant.
        gates: what the spec sets for the precision of the result, for a pass that looks at the gates; None for others.
        judged_in: the runtimes in which its result has to hold them, as `module:function`; empty: the usual one of the format.
        time_budget: seconds after which a pass that looks at the gates ends with the best that it has found; None for no limit.
    """

    source: SourceParameters
    seed: int
    options: AnyPassOptions | None = None
    accept_traced: tuple[str, ...] = ()
    gates: Mapping[str, float] | None = None
    judged_in: tuple[str, ...] = ()
    time_budget: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateParameters(Parameters):
    """A candidate, for the steps that verify, measure and select.

    Attributes:
        candidate: its name, such as `onnx-int8@openvino+instances=2`; no other candidate of the plan has it.
        variant: name of the variant that it serves; several candidates may serve one.
        as_given: whether the variant is the model as given: the baseline.
    """

    candidate: str
    variant: str
    format: str
    precision: Precision
    backend: str
    options: RuntimeOptions = DEFAULT_OPTIONS
    as_given: bool = False


@dataclass(frozen=True, slots=True)
class VerifyParameters(Parameters):
    """Parameters of the step that proves a candidate's outputs.

    Attributes:
        gates: what the spec sets for this precision; the defaults are the step's own.
    """

    candidate: CandidateParameters
    signature: Signature
    gates: Mapping[str, float]
    accelerator: Accelerator = "none"


@dataclass(frozen=True, slots=True)
class RuntimeBenchmarkParameters(Parameters):
    """Parameters of the step that measures candidates in their runtimes.

    Attributes:
        source: the model as given, which all are compared with.
        open_baseline: `module:function` that opens it.
        memory: bytes.
        time_budget: seconds.
    """

    candidates: tuple[CandidateParameters, ...]
    source: SourceParameters
    open_baseline: str
    batch_sizes: tuple[int, ...]
    cpus: float
    memory: int
    time_budget: float
    accelerator: Accelerator = "none"


@dataclass(frozen=True, slots=True)
class RoundParameters(Parameters):
    """Parameters of the step that measures the candidates of one round of a search.

    Attributes:
        unverified: names of candidates that are measured before they are verified: they differ from a verified one in options
            of the runtime alone, and are verified if that helps.
        drops: whether a candidate that takes twice as long as another of its backend is dropped after some turns. Where candidates
            are compared with those that they were made of, none may be missing.
        references: names of candidates that the others are compared with.
        at_once: how many candidates are measured in turns besides the references: each is a process with the model in memory.
        memory: bytes.
        time_budget: seconds.
    """

    candidates: tuple[CandidateParameters, ...]
    unverified: tuple[str, ...]
    drops: bool
    references: tuple[str, ...]
    at_once: int
    batch_sizes: tuple[int, ...]
    cpus: float
    memory: int
    objective: Objective
    time_budget: float
    accelerator: Accelerator = "none"


@dataclass(frozen=True, slots=True)
class ServiceLevel(Parameters):
    """What the spec's `slo` asks for: seconds, requests per second, and whether a candidate that misses it may win.

    Attributes:
        total_throughput: requests per second of all replicas together.
    """

    p99_latency: float | None
    throughput: float | None
    enforce: bool = True
    total_throughput: float | None = None

    @property
    def asked(self) -> bool:
        """Whether it asks for anything."""
        return any(each is not None for each in (self.p99_latency, self.throughput, self.total_throughput))


@dataclass(frozen=True, slots=True)
class ImageParameters(Parameters):
    """How the image is built.

    Attributes:
        platform: that the model is measured on.
        wheels: whether its packages come from a folder of wheels in the build context, and not from a package index.
        ca_bundle: whether the build context has a file with the authorities that pip trusts in the build.
        hashes: `name==version` → the sha256 of the files that may be installed; empty if they are not known.
        unlocked: why they are not known, in a sentence without a full stop.
    """

    platform: Platform
    wheels: bool = False
    ca_bundle: bool = False
    hashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlocked: str = ""


@dataclass(frozen=True, slots=True)
class BuildParameters(Parameters):
    """How the image of a measured server is built.

    Attributes:
        base: as in `DeploymentParameters`.
        image: as in `RenderParameters`.
        network, pip_index, wheelhouse, ca_bundle, python: as in `BuildSettings` of `orchestrator.images`; paths are absolute.
    """

    name: Name
    base: ImageRef | None
    image: ImageParameters
    network: str | None
    pip_index: str | None
    wheelhouse: str | None
    ca_bundle: str | None
    python: str


@dataclass(frozen=True, slots=True)
class ServerBenchmarkParameters(Parameters):
    """Parameters of the step that measures candidates in their servers.

    Attributes:
        memory: bytes.
        batching: "auto": as the runtime benchmark says.
        time_budget: seconds.
        assets: digest of mlo's own templates and servers; the key depends on it.
        servers: backend → what planning found out about its server; one that is False is not started.
        devices: CUDA devices of one server.
        cuda_graphs: whether calls on them are captured as CUDA graphs.
        wires: over which a server may be asked; each is asked over those of them that it has.
        tls: whether requests come over TLS.
        inside: where servers are started.
        build: of the image, for servers in containers.
    """

    candidates: tuple[CandidateParameters, ...]
    signature: Signature
    cpus: float
    memory: int
    slo: ServiceLevel
    wires: tuple[Wire, ...]
    batching: Batching | Literal["auto"]
    batch_sizes: tuple[int, ...]
    objective: Objective
    time_budget: float
    assets: str
    servers: Mapping[str, Mapping[str, Any] | bool]
    accelerator: Accelerator = "none"
    devices: int = 0
    cuda_graphs: bool = False
    tls: bool = False
    inside: Literal["process", "container"] = "process"
    build: BuildParameters | None = None


@dataclass(frozen=True, slots=True)
class RefusedParameters(Parameters):
    """A candidate that is not tried, and why."""

    candidate: str
    variant: str
    format: str
    precision: Precision
    backend: str
    reason: str


SearchFate = Literal["dominated", "did not help", "not tried", "same as another", "not measured", "out of memory"]
"""How a search ends for a candidate that does not become a finalist."""


@dataclass(frozen=True, slots=True)
class SearchedParameters(Parameters):
    """How a search ended for a candidate, and why, in a sentence without a full stop."""

    fate: SearchFate
    reason: str


@dataclass(frozen=True, slots=True)
class SelectParameters(Parameters):
    """Parameters of the step that selects the winner.

    Attributes:
        candidates: what was tried.
        steps: candidate → the ids of the steps that make and verify it.
        refused: what was not tried.
        memory: bytes of a replica.
        price_per_hour: of a replica; None if the spec does not say.
        runtime_level: backends that may be chosen by their runtime's figures where their server cannot be measured.
        searched: candidate → how the search ended for it, for those that are no finalists.
        search_notes: what a reader of the decision should know about the search, a sentence each.
    """

    candidates: tuple[CandidateParameters, ...]
    steps: Mapping[str, tuple[str, ...]]
    refused: tuple[RefusedParameters, ...]
    slo: ServiceLevel
    objective: Objective
    source: SourceKind
    cpus: float
    memory: int
    runtime_level: tuple[str, ...]
    accelerator: Accelerator = "none"
    price_per_hour: float | None = None
    searched: Mapping[str, SearchedParameters] = field(default_factory=dict)
    search_notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeploymentParameters(Parameters):
    """The deployment's name, replicas and image; checked again, since files are rendered from them.

    Attributes:
        most_replicas: that there may be; None if nothing limits them.
        limited_by: what limits them, in words; empty if nothing does.
        registry: prefix of the image's name, without a slash at the end; None for an image that stays on the engine.
        base: the image to build on; a Debian with Python 3.11 or later. None for the default.
    """

    name: Name
    labels: Mapping[LabelKey, LabelValue]
    min_replicas: int
    max_replicas: int
    registry: RegistryPrefix | None
    base: ImageRef | None
    most_replicas: int | None = None
    limited_by: str = ""

    def __post_init__(self) -> None:
        """Refuse impossible numbers of replicas."""
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"replicas: min is {self.min_replicas} and max is {self.max_replicas}")

    @property
    def repository(self) -> str:
        """The image's name without a tag."""
        return self.name if self.registry is None else f"{self.registry}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServingParameters(Parameters):
    """What a server's configuration is made from, besides what was decided.

    Attributes:
        grpc: whether it offers gRPC too.
        limits: what it refuses.
        auth: where the tokens are that requests need; None if they need none.
        tls: where the server's certificate is; None for plain HTTP.
        cors_origins: whose pages may send requests from a browser.
        traces: where spans are sent; None if none are made.
    """

    name: Name
    cpus: float
    memory: int
    drain_seconds: int
    batch_sizes: tuple[int, ...]
    devices: int = 0
    cuda_graphs: bool = False
    grpc: bool = False
    limits: ServerLimits = NO_LIMITS
    auth: ServerAuth | None = None
    tls: ServerTls | None = None
    cors_origins: tuple[Origin, ...] = ()
    traces: ServerTraces | None = None


@dataclass(frozen=True, slots=True)
class RenderParameters(Parameters):
    """Parameters of the step that writes the files of a release.

    Attributes:
        assets: digest of mlo's own templates and servers; the key depends on it.
    """

    deployment: DeploymentParameters
    settings: ServingParameters
    image: ImageParameters
    assets: str
