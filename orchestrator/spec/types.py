"""Scalar types of a spec: durations, rates, sizes, names. Each has a pattern and a description for error messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from orchestrator.spec.quantities import SECONDS, SIZES, cpus_text, duration_text, percent_text, rate_text, size_text

__all__ = [
    "AS_WRITTEN",
    "ENVIRONMENT_NAME",
    "EXPECTS",
    "NAME",
    "AnnotationValue",
    "CodePlace",
    "Collector",
    "Cpus",
    "Delay",
    "DimName",
    "Duration",
    "EnvironmentName",
    "FactoryRef",
    "HostName",
    "HttpWire",
    "ImageRef",
    "IndexUrl",
    "KeyPath",
    "LabelKey",
    "LabelValue",
    "Name",
    "Namespace",
    "NetworkName",
    "Number",
    "ObjectName",
    "Origin",
    "OwnName",
    "Percent",
    "PythonName",
    "PythonVersion",
    "Rate",
    "RegistryPrefix",
    "RelPath",
    "RepositoryUrl",
    "Scalar",
    "SecretFile",
    "SecretName",
    "Sha256",
    "SignatureName",
    "Size",
    "TensorName",
    "VariableName",
    "Wire",
]

HttpWire = Literal["json", "binary"]
Wire = Literal["json", "binary", "grpc"]
"""How tensors travel: as JSON or as raw bytes over HTTP, or in messages over gRPC."""

_NUMBER = r"[0-9]{1,15}(\.[0-9]{1,15})?"
_DURATION = re.compile(rf"^({_NUMBER})(us|ms|s|m|h)$")
_RATE = re.compile(rf"^({_NUMBER})/(s|m|h)$")
_SIZE = re.compile(r"^([0-9]{1,15})(Ki|Mi|Gi|Ti|k|M|G|T)?$")
_PERCENT = re.compile(rf"^({_NUMBER})%$")
_CPUS = re.compile(r"^([0-9]{1,7})m$")


def _match(pattern: re.Pattern[str], value: object, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected {expected}")
    return match


def _duration(value: object) -> float:
    match = _match(_DURATION, value, "a duration with a unit, such as 20ms, 5s or 5m")
    seconds = float(Decimal(match[1]) * SECONDS[match[3]])
    if not 0 < seconds <= 7 * 86400:
        raise ValueError("expected a duration greater than zero and at most 168h")
    return seconds


def _delay(value: object) -> float:
    return 0.0 if value == 0 and not isinstance(value, bool) else _duration(value)


def _rate(value: object) -> float:
    match = _match(_RATE, value, "a rate per second, minute or hour, such as 200/s")
    rate = float(Decimal(match[1]) / SECONDS[match[3]])
    if not 0 < rate <= 1e6:
        raise ValueError("expected a rate greater than zero and at most 1000000/s")
    return rate


def _percent(value: object) -> float:
    match = _match(_PERCENT, value, "a percentage, such as 10%")
    share = float(Decimal(match[1]) / 100)
    if not 0 < share < 1:
        raise ValueError("expected a percentage above 0% and below 100%")
    return share


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _match(_SIZE, value, "a size in bytes with a unit, such as 512Mi or 2Gi")
        size = int(match[1]) * (1 if match[2] is None else SIZES[match[2]])
    if not 0 < size <= 2**50:
        raise ValueError("expected a size greater than zero and at most 1024Ti")
    return size


def _cpus(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        cpus = float(value)
    else:
        cpus = int(_match(_CPUS, value, "a number of CPUs, such as 2, 0.5 or 500m")[1]) / 1000
    if not 0 < cpus <= 1024:
        raise ValueError("expected a number of CPUs greater than zero and at most 1024")
    return cpus


def _local_path(value: str) -> str:
    """Read `file:///a/b` as `/a/b`; refuse other URLs."""
    scheme, separator, _ = value.partition("://")
    if not separator or "/" in scheme:
        return value
    url = urlsplit(value)
    if url.scheme == "file" and url.netloc in ("", "localhost") and "\x00" not in (path := unquote(url.path)):
        return path
    raise PydanticCustomError("remote_path", "expected a path on this machine")


def _number(value: object) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("expected a number")


def _scalar(value: object) -> bool | int | float | str:
    if isinstance(value, bool | int | float | str):
        return value
    raise ValueError("expected a number, `true`, `false` or a text")


def _words(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]}, mode="validation")


AS_WRITTEN = "as written"
"""The context of `model_dump` in which quantities are in the units of a spec, for people; else they are in SI units."""


def _written(text: Callable[[Any], object]) -> PlainSerializer:
    def serialized(value: Any, info: SerializationInfo) -> object:
        return text(value) if info.context == AS_WRITTEN else value

    return PlainSerializer(serialized, when_used="json")


Duration = Annotated[float, BeforeValidator(_duration), _written(duration_text), _words(_DURATION.pattern, "20ms")]
"""Seconds; written as `20ms`, `5s`, `5m`, `1h`."""

Delay = Annotated[
    float,
    BeforeValidator(_delay),
    _written(duration_text),
    WithJsonSchema(
        {"anyOf": [{"const": 0}, {"type": "string", "pattern": _DURATION.pattern}], "examples": ["2ms"]},
        mode="validation",
    ),
]
"""Seconds; written as a duration, or a plain 0."""

Rate = Annotated[float, BeforeValidator(_rate), _written(rate_text), _words(_RATE.pattern, "200/s")]
"""Per second; written as `200/s`."""

Percent = Annotated[float, BeforeValidator(_percent), _written(percent_text), _words(_PERCENT.pattern, "10%")]
"""A share above 0 and below 1; written as `10%`, `2.5%`."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    _written(size_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 2**50},
                {"type": "string", "pattern": _SIZE.pattern},
            ],
            "examples": ["2Gi"],
        },
        mode="validation",
    ),
]
"""Bytes; written as `2Gi`, `512Mi` or a plain number."""

Cpus = Annotated[
    float,
    BeforeValidator(_cpus),
    _written(cpus_text),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1024},
                {"type": "string", "pattern": _CPUS.pattern},
            ],
            "examples": [2, "500m"],
        },
        mode="validation",
    ),
]
"""CPUs; written as `2`, `0.5` or `500m`."""

Number = Annotated[int | float, PlainValidator(_number), WithJsonSchema({"type": "number"}, mode="validation")]
"""A whole number stays one: a range of ids has no 0.5."""

Scalar = Annotated[
    bool | int | float | str,
    PlainValidator(_scalar),
    WithJsonSchema({"type": ["number", "boolean", "string"]}, mode="validation"),
]
"""One element of a tensor."""

EXPECTS: dict[str, str] = {}
"""Pattern → description of the expected value, for messages."""


def _text(pattern: str, expected: str, max_length: int | None = None) -> StringConstraints:
    EXPECTS[pattern] = expected
    return StringConstraints(pattern=pattern, max_length=max_length)


# Pydantic compiles a pattern for each field that has it, and a bound of hundreds of Unicode characters as long as all others
# together; such a bound is a `max_length`.
_ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
_LONGEST_PATH = 1024

NAME = r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"
Name = Annotated[
    str,
    _text(
        NAME,
        "lower-case letters, digits and dashes, starting with a letter and not ending with a dash, at most 40 characters",
    ),
]
"""A DNS label, short enough for suffixes, because it is used in names of releases, images, files and URLs."""

ENVIRONMENT_NAME = r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$"
EnvironmentName = Annotated[
    str,
    _text(
        ENVIRONMENT_NAME,
        "lower-case letters, digits and dashes, starting with a letter and not ending with a dash, at most 32 characters",
    ),
]
TensorName = Annotated[
    str,
    _text(
        r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$",
        "letters, digits, `_` and `.`, not starting with a digit, at most 64 characters",
    ),
]
ContextName = Annotated[str, _text(_ONE_LINE, "text without control characters", 253)]
"""A context of a kubeconfig; never written to rendered files."""

OwnName = Annotated[str, _text(_ONE_LINE, "text without control characters", 256)]
"""A model's own name for a tensor; never written to rendered files."""

SignatureName = Annotated[
    str,
    _text(
        r"^[A-Za-z_][A-Za-z0-9_./-]{0,127}$",
        "the name of a signature, such as `serving_default`, at most 128 characters",
    ),
]
DimName = Annotated[
    str,
    _text(
        r"^[a-z_][a-z0-9_]{0,31}$",
        "lower-case letters, digits and `_`, not starting with a digit, at most 32 characters",
    ),
]
CodePlace = Annotated[
    str,
    _text(r"^[^\x00-\x1f\x7f:]{1,200}:[1-9][0-9]{0,6}$", "a file and a line of the model's code, such as net.py:9"),
]
VariableName = Annotated[str, _text(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", "the name of an environment variable")]
PythonName = Annotated[str, _text(r"^[A-Za-z_][A-Za-z0-9_]{0,99}$", "the name of a Python argument")]
Sha256 = Annotated[str, _text(r"^[0-9a-f]{64}$", "the 64 lower-case hexadecimal digits that `sha256sum` prints")]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LabelKey = Annotated[
    str,
    _text(
        rf"^({_DNS}(\.{_DNS})*/)?{_LABEL}$",
        "letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit, at most 63 characters; before it, if "
        "wanted, a domain and a slash, as in `example.com/team`",
        253 + 1 + 63,
    ),
]
"""A key of a label or an annotation, as Kubernetes has it."""

LabelValue = Annotated[
    str,
    _text(
        rf"^({_LABEL})?$",
        "nothing, or letters, digits, `-`, `_` and `.`, starting and ending with a letter or digit, at most 63 characters",
    ),
]
AnnotationValue = Annotated[str, StringConstraints(max_length=2**16)]
_DOTTED = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
FactoryRef = Annotated[
    str, _text(rf"^{_DOTTED}:{_DOTTED}$", "`module:attribute`, such as `digits_model:DigitsNet`", 200)
]
"""`module:attribute`, imported from the spec's folder."""

KeyPath = Annotated[str, _text(r"^[^\x00-\x1f.]+(\.[^\x00-\x1f.]+)*$", "keys separated by dots, such as `a.b`", 256)]
"""A path into nested dicts."""

RelPath = Annotated[
    str,
    _text(_ONE_LINE, "text without control characters", _LONGEST_PATH),
    AfterValidator(_local_path),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": _ONE_LINE,
            "maxLength": _LONGEST_PATH,
            "not": {"pattern": "^(?!file:///)[^/]*://"},
        },
        mode="validation",
    ),
]
"""A path, relative to the spec's file unless absolute; `file:///a/b` is read as `/a/b`; other URLs are refused."""

SecretFile = Annotated[
    str,
    _text(
        r"^/(run|home|srv|mnt|tmp|secrets)(/\.?[A-Za-z0-9_][A-Za-z0-9._-]*){2,8}$",
        "an absolute path of letters, digits, `.`, `_` and `-`, in a folder below /run, /home, /srv, /mnt, /tmp or /secrets, "
        "such as `/run/secrets/digits/FILE`",
        200,
    ),
]
"""Where a secret lies, on this machine and in containers; its folder hides none of an image's own."""

Origin = Annotated[
    str,
    _text(
        r"^(\*|https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?)$",
        "an origin such as `https://app.example.com`, in lower case and without a path, or `*`",
        300,
    ),
]
"""Where a page of a browser comes from; `*` for anywhere."""

Collector = Annotated[
    str,
    _text(
        r"^https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$",
        "a URL such as `http://collector.observability:4318`, without `/v1/traces` or a slash at the end, and without a password",
        300,
    ),
]
"""Where spans are sent by OTLP over HTTP."""

SecretName = Annotated[
    str,
    _text(
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "lower-case letters, digits and dashes, starting and ending with a letter or digit, at most 63 characters",
    ),
]
"""A Secret of Kubernetes."""

Namespace = Annotated[
    str,
    _text(
        rf"^{_DNS}$",
        "lower-case letters, digits and dashes, starting and ending with a letter or digit, at most 63 characters",
    ),
]
"""A namespace of Kubernetes."""

ObjectName = Annotated[
    str,
    _text(
        rf"^{_DNS}(\.{_DNS})*$",
        "lower-case letters, digits, dashes and dots, starting and ending with a letter or digit",
        253,
    ),
]
"""The name of an object in Kubernetes: a service account, a class, a gateway."""

HostName = Annotated[
    str,
    _text(
        rf"^(\*\.)?{_DNS}(\.{_DNS})+$",
        "a domain name in lower case, such as `digits.example.com` or `*.example.com`",
        253,
    ),
]
"""Under which name requests come from outside a cluster."""

_HOST = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
"""One part of an image's name; two underscores and any number of dashes may stand between its words."""
ImageRef = Annotated[
    str,
    _text(
        rf"^({_HOST}/)?{_PATH}(/{_PATH})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?$",
        "an image such as `registry.example.com/team/python:3.11-slim`",
        300,
    ),
]
"""An image reference with an optional registry, tag and digest."""

RegistryPrefix = Annotated[
    str,
    _text(
        rf"^{_HOST}(/{_PATH})*$",
        "a registry and a path, such as `registry.example.com/team`, without a slash at the end",
        200,
    ),
]
"""A registry and the path below it, without a slash at the end."""

IndexUrl = Annotated[
    str,
    _text(
        r"^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~+-]+)*/?$",
        "the URL of a package index without a user or password, such as `https://pypi.example.com/simple`",
        500,
    ),
]
"""A package index; credentials for it are in pip's own configuration, never in a spec."""

RepositoryUrl = Annotated[
    str,
    _text(
        r"^((https?://|ssh://([A-Za-z0-9_.-]+@)?)[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._:/~@%+-]*)?"
        r"|[A-Za-z0-9_.-]+@[A-Za-z0-9][A-Za-z0-9.-]*:[A-Za-z0-9._/~%+-]+)$",
        "the URL of a Git repository without a password or token, such as `https://git.example.com/team/deployments.git`",
        500,
    ),
]
"""A Git repository as a cluster reads it; credentials for it are in a Secret of that cluster, never in a spec."""

NetworkName = Annotated[
    str,
    _text(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", "the name of a Docker network, such as `none` or `host`"),
]
PythonVersion = Annotated[str, _text(r"^3\.(1[1-9]|[2-9][0-9])$", "a version of Python from 3.11 on, such as `3.12`")]
