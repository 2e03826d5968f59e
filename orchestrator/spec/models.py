"""The spec as typed, frozen values. What can be written, with which default; `docs/spec.md` is the manual."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from orchestrator.spec.source_models import Source
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import (
    Cpus,
    Delay,
    DimName,
    Duration,
    ImageRef,
    LabelKey,
    LabelValue,
    Name,
    OwnName,
    Rate,
    RegistryPrefix,
    RelPath,
    Size,
    TensorName,
)

__all__ = [
    "BackendName",
    "Batching",
    "Benchmark",
    "Deploy",
    "DeployTarget",
    "DimRange",
    "FolderDeploy",
    "Format",
    "Hardware",
    "Image",
    "LocalDeploy",
    "Metadata",
    "ModelDeployment",
    "ModelSection",
    "Objective",
    "Optimize",
    "Precision",
    "Replicas",
    "Serving",
    "Slo",
    "TensorIn",
    "TensorOut",
    "Verify",
]

Precision = Literal["fp32", "bf16", "int8"]
Format = Literal["onnx", "torchscript", "exported-program", "saved-model", "tflite"]
DeployTarget = Literal["local", "folder"]
BackendName = Literal["onnxruntime", "torchserve", "tensorflow-serving", "litert"]
ServerName = Literal["onnxruntime", "torchserve", "tensorflow-serving"]
Objective = Literal["latency", "throughput", "cost"]
DtypeName = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool", "string"]
DEVICE_FORMATS: frozenset[Format] = frozenset({"tflite"})
"""Formats that no server takes; a device runs what a folder holds."""

SERVERS: tuple[ServerName, ...] = get_args(ServerName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# A plain union makes pydantic report every arm. These say which arm a value is meant for; the tags stand in brackets so
# that no key of a spec can be mistaken for one.
_TEXT, _OTHER = "(text)", "(other)"


def _is_text(value: object) -> str:
    return _TEXT if isinstance(value, str) else _OTHER


_by_text = Discriminator(_is_text)
_Auto = Annotated[Literal["auto"], Tag(_TEXT)]


def _for_every_precision(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dict.fromkeys(PRECISIONS, value)
    return value


def _gate(minimum: float, maximum: float | None) -> WithJsonSchema:
    number = {"type": "number", "minimum": minimum} | ({} if maximum is None else {"maximum": maximum})
    per_precision = {
        "type": "object",
        "properties": dict.fromkeys(PRECISIONS, number),
        "additionalProperties": False,
    }
    return WithJsonSchema({"anyOf": [number, per_precision], "examples": [{"fp32": 1e-4}]}, mode="validation")


_Error = Annotated[float, Field(ge=0)]
_Cosine = Annotated[float, Field(ge=-1, le=1)]
_MaxError = Annotated[dict[Precision, _Error], BeforeValidator(_for_every_precision), _gate(0, None)]
_MinCosine = Annotated[dict[Precision, _Cosine], BeforeValidator(_for_every_precision), _gate(-1, 1)]


def _section() -> Any:
    """A section that is made of its own defaults where it is not given.

    An instance as default would make pydantic build that section's class apart from the whole, which costs milliseconds
    each at every start.
    """
    return Field(default={}, validate_default=True)


class Metadata(Strict):
    """Who this deployment is."""

    name: Name = Field(description="Names the release, its images, files and URLs.", examples=["digits"])
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Free labels; they travel to images and Kubernetes objects."
    )


_DimSize = Annotated[int, Field(ge=0, le=2**31)]
_Dim = Annotated[Annotated[DimName, Tag(_TEXT)] | Annotated[_DimSize, Tag(_OTHER)], _by_text]
_Shape = Annotated[
    list[_Dim],
    Field(max_length=8, description="Numbers, or names from `dims`; a named first dimension is the batch."),
]


_own_name = Field(default=None, description="The model's own name of it, where `name` is another.")


class TensorIn(Strict):
    """One input."""

    name: TensorName = Field(examples=["image"])
    dtype: DtypeName = Field(examples=["float32"])
    shape: _Shape = Field(examples=[["batch", 3, 224, 224]])
    tensor: OwnName | None = _own_name


class TensorOut(Strict):
    """One output, in the order in which the model returns them."""

    name: TensorName = Field(examples=["logits"])
    shape: _Shape | None = Field(default=None, description="Checked against the model if given.")
    tensor: OwnName | None = _own_name


class DimRange(Strict):
    """The smallest and largest value that a named dimension takes."""

    min: int = Field(default=1, ge=1, le=2**31)
    max: int = Field(ge=1, le=2**31, examples=[64])


class ModelSection(Strict):
    """Which model, what goes in and what comes out."""

    source: Source
    inputs: list[TensorIn] = Field(
        default=[],
        min_length=1,
        max_length=64,
        description="In the order in which the model takes them; read from the model where its kind says them.",
    )
    outputs: list[TensorOut] = Field(
        default=[],
        min_length=1,
        max_length=64,
        description="In the model's order; read from the model where its kind says them.",
    )
    dims: dict[DimName, DimRange] = Field(
        default_factory=dict, max_length=64, description="The range of every named dimension."
    )
    samples: RelPath | None = Field(
        default=None,
        description="An .npz file of real inputs by name, one row per sample, optionally with `labels`.",
        examples=["samples.npz"],
    )


class Optimize(Strict):
    """Which variants are tried."""

    precisions: Annotated[
        Annotated[list[Precision], Field(min_length=1, max_length=3), Tag(_OTHER)] | _Auto, _by_text
    ] = Field(default="auto", description="Numeric precisions to try.")
    formats: Annotated[Annotated[list[Format], Field(min_length=1, max_length=5), Tag(_OTHER)] | _Auto, _by_text] = (
        Field(default="auto", description="Model formats to try.")
    )
    time_budget: Duration = Field(
        default=300.0, description="How long trying and measuring may take.", json_schema_extra={"default": "5m"}
    )


class Verify(Strict):
    """Gates against the model as given; a number for all precisions or one for each."""

    max_abs_error: _MaxError = Field(default_factory=dict, description="Largest absolute difference of an output.")
    max_rel_error: _MaxError = Field(default_factory=dict, description="Largest relative difference of an output.")
    min_cosine: _MinCosine = Field(default_factory=dict, description="Smallest cosine similarity of an output's rows.")
    min_top1_agreement: float | None = Field(
        default=None, ge=0, le=1, description="Smallest share of rows with the same largest class."
    )


class Benchmark(Strict):
    """What is measured."""

    batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(
        default=[1, 8, 32],
        min_length=1,
        max_length=16,
        description="Rows per call; by default those that `dims` allows.",
    )


class Hardware(Strict):
    """What it will run on, and so what it is measured under."""

    cpus: Cpus = Field(default=1.0, description="CPUs of one replica.")
    memory: Size = Field(default=2**31, description="Memory of one replica.", json_schema_extra={"default": "2Gi"})
    accelerator: Literal["none", "cuda"] = Field(
        default="none", description="What computes besides the CPUs; `cuda` are NVIDIA's GPUs."
    )
    count: int = Field(
        default=1, ge=1, le=16, description="Accelerators of one replica; each has an instance of the model."
    )

    @property
    def devices(self) -> int:
        """How many CUDA devices one replica has; 0 where it has none."""
        return 0 if self.accelerator == "none" else self.count


class Slo(Strict):
    """The service level of one replica, for requests of one row at the given rate."""

    p99_latency: Duration | None = Field(default=None, description="99 of 100 requests are answered within this.")
    throughput: Rate | None = Field(default=None, description="Requests that one replica answers.")
    enforce: bool = Field(default=True, description="Whether `apply` fails when no candidate meets it.")


class Batching(Strict):
    """How many rows go together at most, and how long the first one waits for company."""

    max_size: int = Field(ge=1, le=65536, description="Rows that go together at most.", examples=[32])
    max_delay: Delay = Field(default=0, description="How long the first row waits; 0 takes what is there.")


class Replicas(Strict):
    """How many copies serve."""

    min: int = Field(default=1, ge=1, le=1000)
    max: int = Field(default=1, ge=1, le=1000)


class Serving(Strict):
    """How it is served."""

    backend: Literal[ServerName, "auto"] = Field(
        default="auto", description="The server; by default the best measured."
    )
    batching: Annotated[Annotated[Batching, Tag(_OTHER)] | _Auto, _by_text] = Field(
        default="auto", description="How requests are joined; by default what the sweep showed to be best."
    )
    cuda_graphs: bool = Field(
        default=False,
        description="Whether ONNX Runtime repeats its calls on GPUs as CUDA graphs; takes sizes that only the batch changes.",
    )
    replicas: Replicas = _section()


class Image(Strict):
    """Where images are pushed to and what they are built on."""

    registry: RegistryPrefix | None = Field(default=None, description="Registry and path that images are pushed to.")
    base: ImageRef | None = Field(default=None, description="The image that serving images are built on.")


class LocalDeploy(Strict):
    """On this machine, on loopback."""

    target: Literal["local"] = "local"
    port: int | None = Field(default=None, ge=1024, le=65535, description="By default a free one, kept over updates.")


class FolderDeploy(Strict):
    """Into a folder, which a device or a server of one's own reads."""

    target: Literal["folder"]
    path: RelPath = Field(description="The folder, relative to the spec.", examples=["deployed"])
    versions: int = Field(
        default=2,
        ge=1,
        le=10,
        description="How many revisions stay there, the newest ones; TensorFlow Serving serves them all.",
    )


def _local_by_default(value: object) -> object:
    return {"target": "local", **value} if isinstance(value, dict) else value


Deploy = Annotated[
    Annotated[LocalDeploy | FolderDeploy, Field(discriminator="target")], BeforeValidator(_local_by_default)
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
    optimize_for: Objective = Field(default="latency", description="What decides between candidates that meet the SLO.")
    serving: Serving = _section()
    image: Image = _section()
    deploy: Deploy = _section()

    @property
    def for_devices_alone(self) -> bool:
        """Whether nothing but a model for devices can come out of it: no server is started and no image is built."""
        formats = self.optimize.formats
        return self.deploy.target == "folder" and formats != "auto" and DEVICE_FORMATS.issuperset(formats)

    def path(self, relative: str, base: Path) -> Path:
        """A path of this spec, which lies in `base`, made absolute."""
        return (base / relative).absolute()
