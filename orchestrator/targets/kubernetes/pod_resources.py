"""What a pod asks of its namespace, as quotas count it; pure functions of the cluster's own objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

__all__ = ["Amounts", "PodUse", "pod_use", "quantity", "with_defaults"]

Json = Mapping[str, Any]
Amounts = Mapping[str, Decimal]
"""Amount by a quota's own word: `pods`, `requests.cpu`, `limits.memory`, `requests.nvidia.com/gpu`."""

_NONE = Decimal(0)


@dataclass(frozen=True, slots=True)
class PodUse:
    """One pod, as a quota counts it.

    Attributes:
        amounts: what it takes.
        unstated: what some container says nothing about, such as `limits.cpu`; a quota of that refuses the pod.
    """

    amounts: Amounts
    unstated: frozenset[str]


def quantity(text: object) -> Decimal:
    """A quantity of Kubernetes, such as `500m` or `2Gi`, as a number of CPUs, bytes or objects."""
    from kubernetes.utils.quantity import parse_quantity  # noqa: PLC0415 - an extra

    return Decimal(parse_quantity(str(text)))


def with_defaults(pod: Json, ranges: Iterable[Json]) -> tuple[Json, ...]:
    """Requests and limits of each container, as the cluster completes them: `{requests: ..., limits: ...}`; init containers last.

    Args:
        pod: its spec.
        ranges: the LimitRanges of the namespace, whose defaults count.
    """
    rows = [
        row for each in ranges for row in each.get("spec", {}).get("limits") or () if row.get("type") == "Container"
    ]
    limits_of = {key: value for row in rows for key, value in (row.get("default") or {}).items()}
    requests_of = limits_of | {key: value for row in rows for key, value in (row.get("defaultRequest") or {}).items()}
    return tuple(_completed(each, requests_of, limits_of) for each in (*_containers(pod), *_inits(pod)))


def pod_use(pod: Json, ranges: Iterable[Json] = ()) -> PodUse:
    """What a pod takes: its containers together, or an init container where that asks for more.

    Args:
        pod: its spec.
        ranges: the LimitRanges of the namespace.
    """
    completed = with_defaults(pod, ranges)
    count = len(_containers(pod))
    side: Amounts = {}
    most: dict[str, Decimal] = {}
    for container, own in zip(_inits(pod), completed[count:], strict=True):
        asked = _counted(own)
        if container.get("restartPolicy") == "Always":  # it goes on beside the server
            side, asked = _sum(side, asked), {}
        for key, value in _sum(side, asked).items():
            most[key] = max(most.get(key, _NONE), value)
    together = _sum(side, *(_counted(own) for own in completed[:count]))
    amounts = {key: max(together.get(key, _NONE), most.get(key, _NONE)) for key in {*together, *most}}
    for key, value in (pod.get("overhead") or {}).items():
        for kind in ("requests", "limits"):
            if f"{kind}.{key}" in amounts:
                amounts[f"{kind}.{key}"] += quantity(value)
    unstated = {
        f"{kind}.{name}"
        for own in completed
        for kind in ("requests", "limits")
        for name in ("cpu", "memory")
        if name not in own[kind]
    }
    return PodUse({**amounts, "pods": Decimal(1)}, frozenset(unstated))


def _containers(pod: Json) -> list[Json]:
    return list(pod.get("containers") or ())


def _inits(pod: Json) -> list[Json]:
    return list(pod.get("initContainers") or ())


def _completed(container: Json, requests_of: Json, limits_of: Json) -> Json:
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    return {
        "name": container.get("name", ""),
        "requests": {**requests_of, **limits, **requests},
        "limits": {**limits_of, **limits},
    }


def _sum(*parts: Amounts) -> Amounts:
    return {
        key: sum((part.get(key, _NONE) for part in parts), _NONE) for key in {key for part in parts for key in part}
    }


def _counted(container: Json) -> Amounts:
    return dict(_amounts(container))


def _amounts(container: Json) -> Iterator[tuple[str, Decimal]]:
    for kind in ("requests", "limits"):
        for name, value in container[kind].items():
            yield f"{kind}.{name}", quantity(value)
