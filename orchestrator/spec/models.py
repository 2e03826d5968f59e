"""The spec as typed, frozen values. What can be written, with which default; `docs/spec.md` is the manual."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.spec.types import (
    Cpus,
    DimName,
    Duration,
    FactoryRef,
    ImageRef,
    LabelKey,
    LabelValue,
    Name,
    Rate,
    RegistryPrefix,
    RelPath,
    Sha256,
    Size,
    TensorName,
)

__all__ = [
    "BackendName",
    "Batching",
    "Benchmark",
    "DimRange",
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
    "Source",
    "TensorIn",
    "TensorOut",
    "Verify",
]

Precision = Literal["fp32", "bf16", "int8"]
Format = Literal["onnx", "torchscript", "exported-program"]
BackendName = Literal["onnxruntime", "torchserve"]
Objective = Literal["latency", "throughput", "cost"]
DtypeName = Literal["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Metadata(_Strict):
    """Who this deployment is."""

    name: Name
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)


class PytorchSource(_Strict):
    """A state dict (safetensors, or a checkpoint that is only tensors) and the code that builds its architecture."""

    kind: Literal["pytorch"]
    weights: RelPath
    factory: FactoryRef
    kwargs: dict[str, Any] = Field(default_factory=dict)
    weights_key: str | None = None
    sha256: Sha256 | None = None


class TorchscriptSource(_Strict):
    """A TorchScript archive."""

    kind: Literal["torchscript"]
    weights: RelPath
    sha256: Sha256 | None = None


class ExportedProgramSource(_Strict):
    """A `.pt2` archive of `torch.export.save`."""

    kind: Literal["exported-program"]
    weights: RelPath
    sha256: Sha256 | None = None


Source = Annotated[
    PytorchSource | TorchscriptSource | ExportedProgramSource,
    Field(discriminator="kind"),
]

DimSize = Annotated[int, Field(ge=0, le=2**31)]


class TensorIn(_Strict):
    """One input: a dimension is a number or a name from `dims`. The first dimension is the batch if it is named."""

    name: TensorName
    dtype: DtypeName
    shape: list[DimSize | DimName] = Field(max_length=8)


class TensorOut(_Strict):
    """One output, in the order in which the model returns them."""

    name: TensorName
    shape: list[DimSize | DimName] | None = Field(default=None, max_length=8)


class DimRange(_Strict):
    """The smallest and largest value that a named dimension takes."""

    min: int = Field(default=1, ge=1, le=2**31)
    max: int = Field(ge=1, le=2**31)


class ModelSection(_Strict):
    """Which model, what goes in and what comes out."""

    source: Source
    inputs: list[TensorIn] = Field(min_length=1, max_length=64)
    outputs: list[TensorOut] = Field(min_length=1, max_length=64)
    dims: dict[DimName, DimRange] = Field(default_factory=dict)
    samples: RelPath | None = None


class Optimize(_Strict):
    """Which variants are tried."""

    precisions: list[Precision] | Literal["auto"] = "auto"
    formats: list[Format] | Literal["auto"] = "auto"
    time_budget: Duration = 300.0


class Verify(_Strict):
    """Gates; a number for all precisions or one for each."""

    max_abs_error: dict[Precision, float] = Field(default_factory=dict)
    max_rel_error: dict[Precision, float] = Field(default_factory=dict)
    min_cosine: dict[Precision, float] = Field(default_factory=dict)
    min_top1_agreement: float | None = Field(default=None, ge=0, le=1)


class Benchmark(_Strict):
    """What is measured."""

    batch_sizes: list[Annotated[int, Field(ge=1, le=65536)]] = Field(default=[1, 8, 32], min_length=1, max_length=16)


class Hardware(_Strict):
    """What it will run on, and so what it is measured under."""

    cpus: Cpus = 1.0
    memory: Size = 2**31
    accelerator: Literal["none"] = "none"


class Slo(_Strict):
    """The service level of one replica, for requests of one row at the given rate."""

    p99_latency: Duration | None = None
    throughput: Rate | None = None
    enforce: bool = True


class Batching(_Strict):
    """How many rows go together at most, and how long the first one waits for company."""

    max_size: int = Field(ge=1, le=65536)
    max_delay: Duration | Literal[0] = 0


class Replicas(_Strict):
    """How many copies serve."""

    min: int = Field(default=1, ge=1, le=1000)
    max: int = Field(default=1, ge=1, le=1000)


class Serving(_Strict):
    """How it is served."""

    backend: BackendName | Literal["auto"] = "auto"
    batching: Batching | Literal["auto"] = "auto"
    replicas: Replicas = Replicas()


class Image(_Strict):
    """Where images are pushed to and what they are built on."""

    registry: RegistryPrefix | None = None
    base: ImageRef | None = None


class LocalDeploy(_Strict):
    """On this machine, on loopback."""

    target: Literal["local"] = "local"
    port: int | None = Field(default=None, ge=1024, le=65535)


class ModelDeployment(_Strict):
    """A whole spec."""

    apiVersion: Literal["mlo/v1"]  # noqa: N815 - the key's spelling in the file
    kind: Literal["ModelDeployment"]
    metadata: Metadata
    model: ModelSection
    optimize: Optimize = Optimize()
    verify: Verify = Verify()
    benchmark: Benchmark = Benchmark()
    hardware: Hardware = Hardware()
    slo: Slo = Slo()
    optimize_for: Objective = "latency"
    serving: Serving = Serving()
    image: Image = Image()
    deploy: LocalDeploy = LocalDeploy()

    def path(self, relative: str, base: Path) -> Path:
        """A path of this spec, which lies in `base`, made absolute."""
        return (base / relative).absolute()
