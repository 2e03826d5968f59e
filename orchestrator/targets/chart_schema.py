"""Checks what a section sets of the chart's values against the chart's own schema, with the places in the spec."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from jsonschema import Draft7Validator

from orchestrator.diagnostics import Diagnostic
from orchestrator.render.assets import assets_dir
from orchestrator.spec.places import did_you_mean
from orchestrator.spec.yaml_tree import quoted
from orchestrator.targets.chart_values import cluster_values, merged

if TYPE_CHECKING:
    from orchestrator.targets.cluster_settings import ClusterDeploy
    from orchestrator.targets.section import SpanOf

__all__ = ["chart_problems", "kept_out"]

Path = tuple[str | int, ...]

_DECIDED: tuple[Path, ...] = (
    ("model",),
    *(("image", key) for key in ("repository", "tag", "digest", "server")),
)
"""Values that say what was measured and proven."""

_ELSEWHERE: dict[Path, str] = {
    ("fullnameOverride",): "`metadata: name:`",
    ("service", "port"): "`deploy: service: port:`",
    ("inferenceService",): "`deploy: as:`",
    ("candidate",): "`deploy: strategy:`",
}
"""Values that another key sets, from which mlo reads where a deployment is and how to follow it."""

_KEYS: dict[Path, Path] = {
    ("affinity",): ("pod", "affinity"),
    ("tolerations",): ("pod", "tolerations"),
    ("topologySpreadConstraints",): ("pod", "topology_spread"),
    ("env",): ("pod", "env"),
    ("envFrom",): ("pod", "env_from"),
    ("volumes",): ("pod", "volumes"),
    ("volumeMounts",): ("pod", "volume_mounts"),
    ("initContainers",): ("pod", "init_containers"),
    ("sidecars",): ("pod", "sidecars"),
    ("networkPolicy", "egress"): ("pod", "egress"),
    ("networkPolicy", "requestsFrom"): ("service", "requests_from"),
    ("networkPolicy", "metricsFrom"): ("service", "metrics_from"),
}
"""Value of the chart → key under `deploy:`, of those that are objects of Kubernetes; the types of the others say enough."""

_TYPES = {
    "object": "a mapping of keys to values",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
}


def chart_problems(section: ClusterDeploy, span_of: SpanOf) -> Iterator[Diagnostic]:
    """E280 for each value that the chart does not take, E281 for each that the decision sets, E283 for each that another key sets."""
    for path, key in _ELSEWHERE.items():
        if _reaches(section.values, path):
            at = ("deploy", "values", *path)
            yield Diagnostic(
                "E283",
                f"`{_name(path)}` is not to be set as a value of the chart",
                span_of(at, key=True),
                cause="another key sets it, which says where the deployment is found",
                remedy=f"remove it, and set {key} in its place",
                at=at,
            )
    for path in _DECIDED:
        if _reaches(section.values, path):
            at = ("deploy", "values", *path)
            yield Diagnostic(
                "E281",
                f"`{_name(path)}` is not to be set",
                span_of(at, key=True),
                cause="it says what was measured and proven",
                remedy="remove it",
                at=at,
            )
    for error in sorted(_validator().iter_errors(merged(_defaults(), cluster_values(section))), key=_order):
        yield from _problems(error, section, span_of)


def kept_out(section: ClusterDeploy, span_of: SpanOf) -> Iterator[Diagnostic]:
    """W105 for a way in from outside the namespace, whose requests the NetworkPolicy keeps out."""
    policy = cluster_values(section).get("networkPolicy", {})
    if "requestsFrom" in policy or policy.get("enabled") is False:
        return
    at: tuple[str, ...]
    if section.ingress is not None:
        at, remedy = ("deploy", "ingress"), "set its `from_namespace` to the namespace of the controller or gateway"
    elif section.service.type != "ClusterIP":
        at = ("deploy", "service", "type")
        remedy = "set `requests_from` beside it, such as `[{ipBlock: {cidr: 10.0.0.0/8}}]`"
    else:
        return
    yield Diagnostic(
        "W105",
        "requests from outside the namespace are not let in",
        span_of(at, key=True),
        label="brings requests from there",
        cause="the NetworkPolicy lets in the pods of the same namespace alone",
        remedy=remedy,
        severity="warning",
        at=at,
    )


@cache
def _validator() -> Any:
    schema = json.loads((assets_dir("charts") / "mlo-model" / "values.schema.json").read_text(encoding="utf-8"))
    return Draft7Validator(schema)


@cache
def _defaults() -> dict[str, Any]:
    text = (assets_dir("charts") / "mlo-model" / "values.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
    return defaults


def _order(error: Any) -> tuple[str, ...]:
    return tuple(map(str, error.absolute_path))


def _problems(error: Any, section: ClusterDeploy, span_of: SpanOf) -> Iterator[Diagnostic]:
    """One diagnostic, or one for each unknown key."""
    path: Path = tuple(error.absolute_path)
    at = _place(path, section)
    name = _name(at[2:] if at[1] == "values" else at[1:])
    if error.validator == "additionalProperties" and error.schema["additionalProperties"] is False:
        known = list(error.schema["properties"])
        for key in sorted(error.instance.keys() - set(known)):
            where = f"`{name}` has no" if name else "the chart has no"
            label = did_you_mean(key, known)
            yield Diagnostic(
                "E280",
                f"{where} {'key' if name else 'value'} {quoted(key)}",
                span_of(_place((*path, key), section), key=True),
                label,
                remedy="" if label else f"allowed here: {', '.join(known)}",
                at=(*at, key),
            )
        return
    if "propertyNames" in error.relative_schema_path:
        key = error.instance
        yield Diagnostic(
            "E280",
            f"{quoted(key)} is not a valid key of `{name}`",
            span_of(_place((*path, key), section), key=True),
            cause=f"it must match {error.validator_value}" if error.validator == "pattern" else "it is too long",
            remedy="use a key as Kubernetes allows it, such as `example.com/team`",
            at=at,
        )
        return
    yield Diagnostic("E280", _message(name, error), span_of(at), remedy=_remedy(error), at=at)


def _message(name: str, error: Any) -> str:
    wanted, value = error.validator_value, error.instance
    match error.validator:
        case "required":
            missing = next(key for key in wanted if key not in value)
            return f"`{name}` lacks `{missing}`"
        case "type":
            kinds = wanted if isinstance(wanted, list) else [wanted]
            return f"`{name}` must be {' or '.join(_TYPES[kind] for kind in kinds)}, not {_shown(value)}"
        case "enum":
            return f"`{name}` must be one of {', '.join(map(_shown, wanted))}, not {_shown(value)}"
        case "const":
            return f"`{name}` must be {_shown(wanted)}, not {_shown(value)}"
        case "minimum" | "maximum":
            return f"`{name}` must be at {'least' if error.validator == 'minimum' else 'most'} {wanted}, not {_shown(value)}"
        case "minProperties" | "maxProperties":
            entries = "entry" if wanted == 1 else "entries"
            least = "at least" if error.validator == "minProperties" else "at most"
            return f"`{name}` must have {least} {wanted} {entries}, not {len(value)}"
        case "not":
            return f"`{name}` must not be {_shown(value)}"
        case _:
            return f"{_shown(value)} is not a valid value for `{name}`"


def _remedy(error: Any) -> str:
    match error.validator:
        case "pattern":
            return f"write it so that it matches {error.validator_value}"
        case "required":
            return "add it"
        case _:
            return "docs/chart.md says what the chart takes"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a mapping"
    return quoted(value if isinstance(value, str) else json.dumps(value))


def _name(path: Path) -> str:
    """As people write it: `tolerations[0].operator`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _place(path: Path, section: ClusterDeploy) -> Path:
    """Where the spec sets this value: under `deploy.values`, or by the key that stands for it."""
    if _reaches(section.values, path):
        return ("deploy", "values", *path)
    for value, key in _KEYS.items():
        if path[: len(value)] == value and not _reaches(section.values, value):
            return ("deploy", *key, *path[len(value) :])
    return ("deploy", "values", *path)


def _reaches(values: Any, path: Sequence[str | int]) -> bool:
    for part in path:
        there = part in values if isinstance(values, dict) else isinstance(values, list) and part in range(len(values))
        if not there:
            return False
        values = values[part]
    return True
