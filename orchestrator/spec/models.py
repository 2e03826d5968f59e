"""The spec as typed, frozen values: every key with its type and default. `docs/spec.md` is the manual."""

# No `from __future__ import annotations`: pydantic would evaluate every annotation from its text, a quarter of the import.
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, create_model

from orchestrator.backends.table import BACKENDS, SERVERS, backends_of
from orchestrator.spec.gates import GATES, PRECISIONS, Gate, Precision
from orchestrator.spec.image_models import Image
from orchestrator.spec.server_models import Auth, Cors, Limits, Tls, Traces
from orchestrator.spec.source_models import Source
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import (
    CodePlace,
    Cpus,
    Delay,
    DimName,
    Duration,
    LabelKey,
    LabelValue,
    Name,
    Number,
    OwnName,
    Rate,
    RelPath,
    Scalar,
    Size,
    TensorName,
    Wire,
)
from orchestrator.targets.table import TARGETS

if TYPE_CHECKING:
    from orchestrator.targets.section import DeploySection

__all__ = [
    "BackendName",
    "Batching",
    "Benchmark",
    "Deploy",
    "DeployTarget",
    "DimRange",
    "Format",
    "Hardware",
    "Image",
    "Metadata",
    "ModelDeployment",
    "ModelSection",
    "Objective",
    "Optimize",
    "Replicas",
    "Serving",
    "Slo",
    "TensorIn",
    "TensorOut",
    "Verify",
]

FORMAT_NAMES: tuple[str, ...] = tuple(dict.fromkeys(name for row in BACKENDS.values() for name in row.formats))
if TYPE_CHECKING:
    Format = str
    BackendName = str
    ServerChoice = str
else:
    Format = Literal[FORMAT_NAMES]
    BackendName = Literal[*BACKENDS]
    ServerChoice = Literal[*SERVERS, "auto"]
Objective = Literal["latency", "throughput", "cost"]
DtypeName = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "string"]
DEVICE_FORMATS: frozenset[Format] = frozenset(
    name for name in FORMAT_NAMES if not any(BACKENDS[taker].served for taker in backends_of(name))
)
"""Formats that no server loads; they are delivered to a folder and run on devices."""

# For a plain union, pydantic reports errors of every member. These discriminators select one; the tags are in parentheses
# so that they cannot collide with a key of a spec.
_TEXT, _OTHER = "(text)", "(other)"


def _is_text(value: object) -> str:
    return _TEXT if isinstance(value, str) else _OTHER


_by_text = Discriminator(_is_text)
_Auto = Annotated[Literal["auto"], Tag(_TEXT)]


def _for_every_precision(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dict.fromkeys(PRECISIONS, value)
    return value


def _gate_key(gate: Gate) -> Any:
    """The type and the field of a gate's key under `verify:`."""
    if not gate.per_precision:
        return float | None, Field(default=None, ge=gate.lowest, le=gate.highest, description=gate.description)
    number = {"type": "number", "minimum": gate.lowest} | ({} if gate.highest is None else {"maximum": gate.highest})
    per_precision = {
        "type": "object",
        "properties": dict.fromkeys(PRECISIONS, number),
        "additionalProperties": False,
    }
    limits = dict[Precision, Annotated[float, Field(ge=gate.lowest, le=gate.highest)]]
    schema = WithJsonSchema({"anyOf": [number, per_precision], "examples": [{"fp32": 1e-4}]}, mode="validation")
    return (
        Annotated[limits, BeforeValidator(_for_every_precision), schema],
        Field(default_factory=dict, description=gate.description),
    )


def _section() -> Any:
    """A section that falls back to its own defaults.

    With an instance as default, pydantic would build the validator of each section separately, which costs milliseconds
    per section at every start.
    """
    return Field(default={}, validate_default=True)


class Metadata(Strict):
    """Name and labels of the deployment."""

    name: Name = Field(
        description="Name of the release, also used for its images, files and URLs.", examples=["digits"]
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Free-form labels; copied to images and Kubernetes objects."
    )


_DimSize = Annotated[int, Field(ge=0, le=2**31)]
_Dim = Annotated[Annotated[DimName, Tag(_TEXT)] | Annotated[_DimSize, Tag(_OTHER)], _by_text]
_Shape = Annotated[
    list[_Dim],
    Field(max_length=8, description="Numbers, or names from `dims`; see `batch` for which one is the batch dimension."),
]


_own_name = Field(default=None, description="The model's own name for it, if `name` differs.")


class TensorIn(Strict):
    """One input."""

    name: TensorName = Field(examples=["image"])
    dtype: DtypeName = Field(examples=["float32"])
    shape: _Shape = Field(examples=[["batch", 3, 224, 224]])
    tensor: OwnName | None = _own_name
    range: list[Number] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="The smallest and the largest number that it may hold, both included.",
        examples=[[0, 255]],
    )
    values: list[Scalar] | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The only values that it may hold, instead of a range.",
        examples=[[8000, 16000]],
    )
    enforce: bool = Field(
        default=False,
        description="Whether the server refuses requests with other values than `range` or `values` allow.",
    )


class TensorOut(Strict):
    """One output, in the order in which the model returns them."""

    name: TensorName = Field(examples=["logits"])
    shape: _Shape | None = Field(default=None, description="Checked against the model if given.")
    tensor: OwnName | None = _own_name


class DimRange(Strict):
    """The smallest and largest size of a named dimension, and the step between its sizes."""

    min: int = Field(default=1, ge=1, le=2**31)
    max: int = Field(ge=1, le=2**31, examples=[64])
    multiple_of: int = Field(default=1, ge=1, le=2**31, description="Every size is a multiple of it.", examples=[32])

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and largest multiple in the range; the first is the greater one if there is none."""
        step = self.multiple_of
        return -(-self.min // step) * step, self.max // step * step


class ModelSection(Strict):
    """The model with its inputs and outputs."""

    source: Source
    inputs: list[TensorIn] = Field(
        default=[],
        min_length=1,
        max_length=64,
        description="In the order in which the model takes them; by default read from the model, if its kind describes them.",
    )
    outputs: list[TensorOut] = Field(
        default=[],
        min_length=1,
        max_length=64,
        description="In the model's order; by default read from the model, if its kind describes them.",
    )
    dims: dict[DimName, DimRange] = Field(
        default_factory=dict, max_length=64, description="The range of every named dimension."
    )
    batch: DimName | None = Field(
        default=None,
        description="The named dimension that counts the rows of a request, or `none`; by default the first dimension, if it "
        "is named and the same for all inputs.",
        examples=["none"],
    )
    samples: RelPath | None = Field(
        default=None,
        description="An .npz file of real inputs by name, one row per sample, or one whole request per sample if there is no "
        "batch dimension; optionally with `labels`.",
        examples=["samples.npz"],
    )


class Optimize(Strict):
    """Which variants are tried."""

    precisions: Annotated[
        Annotated[list[Precision], Field(min_length=1, max_length=len(PRECISIONS)), Tag(_OTHER)] | _Auto, _by_text
    ] = Field(default="auto", description="Numeric precisions to try.")
    formats: Annotated[
        Annotated[list[Format], Field(min_length=1, max_length=len(FORMAT_NAMES)), Tag(_OTHER)] | _Auto, _by_text
    ] = Field(default="auto", description="Model formats to try.")
    time_budget: Duration = Field(
        default=300.0,
        description="Time limit of making and verifying each variant, and of each benchmark; with `search`, of everything together.",
        json_schema_extra={"default": "5m"},
    )
    search: bool = Field(
        default=False,
        description="Search for better passes and runtime options, in rounds, until `time_budget` ends.",
    )


class _Verify(Strict):
    """Gates for the comparison with the original model; one number for all precisions, or one per precision."""

    accept_traced: list[CodePlace] = Field(
        default=[],
        max_length=64,
        description="Lines of the model's code that tracing may freeze, as error `E428` names them.",
        examples=[["net.py:9"]],
    )

    def limits(self, precision: str) -> dict[str, float]:
        """Gate → limit, of the gates that the spec sets for this precision."""
        found = {name: getattr(self, name) for name in GATES}
        chosen = {name: each.get(precision) if isinstance(each, dict) else each for name, each in found.items()}
        return {name: limit for name, limit in chosen.items() if limit is not None}

    def sets(self, gate: str) -> bool:
        """Whether the spec sets a limit of this gate, for any precision."""
        return getattr(self, gate) not in (None, {})


if TYPE_CHECKING:
    Verify = _Verify
else:
    Verify = create_model(
        "Verify",
        __base__=_Verify,
        __doc__=_Verify.__doc__,
        __module__=__name__,
        **{gate.name: _gate_key(gate) for gate in GATES.values()},
    )


class Benchmark(Strict):
    """What is measured."""

    batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[1, 8, 32],
        min_length=1,
        max_length=16,
        description="Rows per call; the defaults are limited to the range in `dims`.",
    )
    inside: Literal["process", "container"] = Field(
        default="process",
        description="Where servers are measured: as processes of this machine, or in containers of their images, with the limits of "
        "`hardware`.",
    )


class Hardware(Strict):
    """The hardware of one replica; measurements run under the same limits."""

    cpus: Cpus = Field(default=1.0, description="CPUs of one replica.")
    memory: Size = Field(default=2**31, description="Memory of one replica.", json_schema_extra={"default": "2Gi"})
    accelerator: Literal["none", "cuda"] = Field(
        default="none", description="Accelerator to compute on; `cuda` means NVIDIA GPUs."
    )
    count: int = Field(
        default=1, ge=1, le=16, description="Accelerators of one replica; each runs an instance of the model."
    )
    price_per_hour: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        default=None,
        description="What one replica costs per hour, in any currency; the decision then says what a million requests cost.",
        examples=[0.34],
    )

    @property
    def devices(self) -> int:
        """How many CUDA devices one replica has."""
        return 0 if self.accelerator == "none" else self.count


class Slo(Strict):
    """The service level of one replica, for requests of one row at the given rate."""

    p99_latency: Duration | None = Field(
        default=None, description="99 of 100 requests must be answered within this time."
    )
    throughput: Rate | None = Field(default=None, description="Requests that one replica must answer.")
    total_throughput: Rate | None = Field(
        default=None,
        description="Requests that all replicas together must answer; it takes as many as this is times what one is proven to.",
    )
    enforce: bool = Field(default=True, description="Whether `apply` fails when no candidate meets it.")

    @property
    def asked(self) -> bool:
        """Whether it asks for anything."""
        return any(each is not None for each in (self.p99_latency, self.throughput, self.total_throughput))


class Batching(Strict):
    """The largest batch, and how long its first row may wait for more."""

    max_size: int = Field(ge=1, le=65536, description="Largest number of rows in a batch.", examples=[32])
    max_delay: Delay = Field(
        default=0, description="How long the first row waits for more; with 0, waiting rows are batched at once."
    )


class Replicas(Strict):
    """Number of replicas."""

    min: int = Field(default=1, ge=1, le=1000)
    max: int = Field(default=1, ge=1, le=1000)


class Serving(Strict):
    """How the model is served."""

    backend: ServerChoice = Field(default="auto", description="The server; `auto` selects the best by measurement.")
    batching: Annotated[Annotated[Batching, Tag(_OTHER)] | _Auto, _by_text] = Field(
        default="auto", description="How requests are batched; `auto` uses the best measured setting."
    )
    cuda_graphs: bool = Field(
        default=False,
        description="Whether ONNX Runtime replays its GPU calls as CUDA graphs; requires that only the batch size varies.",
    )
    wire: Literal["auto", "json", "binary", "grpc"] = Field(
        default="auto",
        description="How clients send tensors, which decides what is measured: as JSON or as raw bytes over HTTP, or over gRPC; "
        "`auto` measures what each server has and compares servers by their fastest.",
    )
    grpc: bool = Field(
        default=False,
        description="Whether the server also offers the Open Inference Protocol over gRPC, at the port after the one for HTTP; "
        "it does if `wire` is `grpc`.",
    )
    limits: Limits = _section()
    auth: Auth | None = Field(
        default=None,
        description="The tokens that requests need; without it, whoever reaches the server may send requests.",
    )
    tls: Tls | None = Field(
        default=None,
        description="The server's certificate; requests then come over TLS alone, without it as plain HTTP.",
    )
    cors: Cors | None = Field(
        default=None, description="Whose pages may send requests from a browser; without it, none but the server's own."
    )
    traces: Traces | None = Field(
        default=None, description="Where spans of requests are sent; without it, none are made."
    )
    replicas: Replicas = _section()

    @property
    def own_settings(self) -> tuple[str, ...]:
        """The keys with a value that not every server has a setting for."""
        given = {
            "limits": self.limits != Limits(),
            "auth": self.auth is not None,
            "cors": self.cors is not None,
            "tls": self.tls is not None,
            "traces": self.traces is not None,
        }
        return tuple(key for key, is_set in given.items() if is_set)

    @property
    def offers_grpc(self) -> bool:
        """Whether its server answers gRPC."""
        return self.grpc or self.wire == "grpc"

    @property
    def wires(self) -> tuple[Wire, ...]:
        """What clients may use; one of them, unless that is left to measurements."""
        if self.wire == "auto":
            return ("json", "binary", "grpc") if self.grpc else ("json", "binary")
        return (self.wire,)


def _first_target_by_default(value: object) -> object:
    return {"target": next(iter(TARGETS)), **value} if isinstance(value, dict) else value


if TYPE_CHECKING:
    # What is outside of a target's folder sees of its section what all sections have.
    Deploy = DeploySection
    DeployTarget = str
else:
    DeployTarget = Literal[tuple(TARGETS)]
    Deploy = Annotated[
        Annotated[Union[tuple(row.section for row in TARGETS.values())], Field(discriminator="target")],  # noqa: UP007
        BeforeValidator(_first_target_by_default),
    ]


class ModelDeployment(Strict):
    """A whole spec."""

    apiVersion: Literal["mlo/v1"] = Field(examples=["mlo/v1"])  # noqa: N815 - the key's spelling in the file
    kind: Literal["ModelDeployment"] = Field(examples=["ModelDeployment"])
    metadata: Metadata = Field(examples=[{"name": "digits"}])
    model: ModelSection
    optimize: Optimize = _section()
    verify: Verify = _section()
    benchmark: Benchmark = _section()
    hardware: Hardware = _section()
    slo: Slo = _section()
    optimize_for: Objective = Field(
        default="latency", description="What to optimize among candidates that meet the SLO."
    )
    serving: Serving = _section()
    image: Image = _section()
    deploy: Deploy = _section()

    @property
    def only_for_devices(self) -> bool:
        """Whether the spec only produces models for devices: no server is started and no image is built."""
        formats = self.optimize.formats
        return self.deploy.takes_unserved and formats != "auto" and DEVICE_FORMATS.issuperset(formats)

    def path(self, relative: str, base: Path) -> Path:
        """A path in this spec as an absolute path; `base` is the spec's folder."""
        return (base / relative).absolute()
