"""Typed scalars of a spec: durations, rates, sizes, names. Each has one pattern and says in words what it expects."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema

__all__ = [
    "DIM_NAME",
    "Cpus",
    "DimName",
    "Dtype",
    "Duration",
    "EnvironmentName",
    "FactoryRef",
    "ImageRef",
    "LabelKey",
    "LabelValue",
    "Name",
    "Rate",
    "RegistryPrefix",
    "RelPath",
    "Sha256",
    "Size",
    "TensorName",
]

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(us|ms|s|m|h)$")
_DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"^(\d+(?:\.\d+)?)/(s|m|h)$")
_SIZE = re.compile(r"^(\d+)(Ki|Mi|Gi|Ti|k|M|G|T)?$")
_SIZE_UNITS = {
    None: 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_CPUS = re.compile(r"^(\d+)m$")


def _duration(value: object) -> float:
    if isinstance(value, float):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration with a unit, such as 20ms, 5s or 5m")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def _rate(value: object) -> float:
    if isinstance(value, float):
        return value
    match = _RATE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a rate per second, minute or hour, such as 200/s")
    return float(match[1]) / _DURATION_UNITS[match[2]]


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a size in bytes with an optional unit, such as 512Mi or 2Gi")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _cpus(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _CPUS.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a number of CPUs, such as 2, 0.5 or 500m")
    return int(match[1]) / 1000


Duration = Annotated[
    float,
    BeforeValidator(_duration),
    Field(gt=0, le=7 * 86400),
    PlainSerializer(lambda seconds: seconds, return_type=float),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["20ms", "5m"]}, mode="validation"),
]
"""Seconds; written `20ms`, `5s`, `5m`, `1h`."""

Rate = Annotated[
    float,
    BeforeValidator(_rate),
    Field(gt=0, le=1e6),
    WithJsonSchema({"type": "string", "pattern": _RATE.pattern, "examples": ["200/s"]}, mode="validation"),
]
"""Per second; written `200/s`."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(gt=0, le=2**50),
    WithJsonSchema(
        {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": _SIZE.pattern}], "examples": ["2Gi"]},
        mode="validation",
    ),
]
"""Bytes; written `2Gi`, `512Mi` or a plain number."""

Cpus = Annotated[
    float,
    BeforeValidator(_cpus),
    Field(gt=0, le=1024),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _CPUS.pattern}], "examples": [2, "500m"]},
        mode="validation",
    ),
]
"""CPUs; written `2`, `0.5` or `500m`."""

DIM_NAME = r"^[a-z_][a-z0-9_]{0,31}$"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
"""A DNS label short enough to carry suffixes: it names releases, images, files and URLs."""

EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$")]
DimName = Annotated[str, StringConstraints(pattern=DIM_NAME)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
FactoryRef = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
        max_length=200,
    ),
]
"""`module:attribute`, imported from the spec's folder."""

RelPath = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,1024}$")]
"""A path, relative to the spec's file unless absolute; no control characters."""

ImageRef = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+([._/-][a-z0-9]+)*"
        r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
        max_length=300,
    ),
]
"""An image reference with an optional registry, tag and digest."""

RegistryPrefix = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-][a-z0-9]+)*)*$", max_length=200
    ),
]
"""A registry and the path below it, without a slash at the end."""

Dtype = Annotated[
    str,
    StringConstraints(pattern=r"^(float16|bfloat16|float32|float64|int8|int16|int32|int64|uint8|bool)$"),
]
