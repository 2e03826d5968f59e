"""Whether a namespace has room for a release beside the one that serves: its ResourceQuotas and LimitRanges; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from orchestrator.targets.kubernetes.pod_resources import Amounts, pod_use, quantity, with_defaults

__all__ = ["Pods", "out_of_range", "short_of"]

Json = Mapping[str, Any]

_SHORT = {
    "cpu": "requests.cpu",
    "memory": "requests.memory",
    "ephemeral-storage": "requests.ephemeral-storage",
    "count/pods": "pods",
}
"""Words of a quota that say the same as others."""


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a release.

    Attributes:
        spec: of one.
        count: how many.
        surge: how many more there may be during an update.
    """

    spec: Json
    count: int
    surge: int = 0

    @classmethod
    def of(cls, described: Json, count: int | None = None) -> Pods:
        """Those of a Deployment or an InferenceService.

        Args:
            described: the object.
            count: how many, if the object does not say.
        """
        spec = described["spec"]
        if described["kind"] == "InferenceService":
            predictor = spec["predictor"]
            return cls(predictor, int(predictor.get("minReplicas", 1)), _surge(predictor.get("deploymentStrategy"), 1))
        pods = int(spec.get("replicas") or count or 1)
        return cls(spec["template"]["spec"], pods, _surge(spec.get("strategy"), pods))


def short_of(
    quotas: Iterable[Json],
    ranges: Iterable[Json],
    new: Pods,
    old: Pods | None = None,
    objects: Amounts = MappingProxyType({}),
    candidates: int = 1,
) -> tuple[str, ...]:
    """What the namespace's quotas do not leave enough of, a clause each.

    Counted is the most that is there at the same time: the old pods and the candidate's, then the new pods and the last old one.

    Args:
        quotas: the ResourceQuotas, with what is used of them now, which has the old pods in it.
        ranges: the LimitRanges.
        new: the pods of the release.
        old: those that serve.
        objects: how many more objects than now there are at most, by the words of quotas, such as `count/deployments.apps`.
        candidates: how many pods the candidate has at most.
    """
    ranges = tuple(ranges)
    use = pod_use(new.spec, ranges)
    served = {} if old is None else pod_use(old.spec, ranges).amounts
    found: list[str] = []
    for each in quotas:
        if not _covers(each, new.spec, use.amounts):
            continue
        name, status = each["metadata"]["name"], each.get("status", {})
        before = served if old is not None and _covers(each, old.spec, served) else {}
        for word, limit in sorted((status.get("hard") or {}).items()):
            key = _SHORT.get(word, word)
            if key in use.unstated:
                found.append(f"the quota `{name}` limits `{word}`, of which a container of the pod says nothing")
                continue
            needed = (
                objects[word]
                if word in objects
                else _most(use.amounts.get(key, Decimal(0)), new, before.get(key, Decimal(0)), old, candidates)
            )
            used = quantity((status.get("used") or {}).get(word, 0))
            if needed > 0 and used + needed > quantity(limit):
                found.append(
                    f"`{word}` of the quota `{name}` is {limit}: {_written(used, word)} are used, and up to "
                    f"{_written(needed, word)} more are needed"
                )
    return tuple(found)


def out_of_range(ranges: Iterable[Json], pod: Json) -> tuple[str, ...]:
    """What a pod asks for that the namespace's LimitRanges do not allow, a clause each."""
    ranges = tuple(ranges)
    containers, whole = with_defaults(pod, ranges), pod_use(pod, ranges).amounts
    found: list[str] = []
    for each in ranges:
        name = each["metadata"]["name"]
        for row in each.get("spec", {}).get("limits") or ():
            if row.get("type") == "Pod":
                asked = {kind: _of_kind(whole, kind) for kind in ("requests", "limits")}
                found.extend(_outside(row, asked, "the pod", name))
            elif row.get("type") == "Container":
                for own in containers:
                    asked = {
                        kind: {key: quantity(value) for key, value in own[kind].items()}
                        for kind in ("requests", "limits")
                    }
                    found.extend(_outside(row, asked, f"the container `{own['name']}`", name))
    return tuple(found)


def _most(new: Decimal, pods: Pods, old: Decimal, before: Pods | None, candidates: int) -> Decimal:
    """What is needed at most on top of what is used now."""
    if before is None:  # the candidate is removed before the pods come
        return new * pods.count
    beside = new * max(candidates, pods.surge)
    last = new * pods.count - old * before.count + old * min(pods.surge, before.count)
    return max(beside, last)


def _surge(strategy: Any, pods: int) -> int:
    text = str(((strategy or {}).get("rollingUpdate") or {}).get("maxSurge", "25%"))
    return math.ceil(pods * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _covers(quota: Json, pod: Json, amounts: Amounts) -> bool:
    """Whether a quota counts such a pod: those with scopes only count some."""
    spec = quota.get("spec") or {}
    named = all(_in_scope(str(each), "Exists", (), pod, amounts) for each in spec.get("scopes") or ())
    return named and all(
        _in_scope(
            str(each["scopeName"]),
            str(each.get("operator", "Exists")),
            tuple(each.get("values") or ()),
            pod,
            amounts,
        )
        for each in (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    )


def _in_scope(scope: str, operator: str, values: tuple[str, ...], pod: Json, amounts: Amounts) -> bool:
    if scope == "PriorityClass":
        priority = str(pod.get("priorityClassName") or "")
        return {
            "In": priority in values,
            "NotIn": priority not in values,
            "Exists": bool(priority),
            "DoesNotExist": not priority,
        }.get(operator, False)
    best_effort = not set(amounts) - {"pods"}
    return {
        "NotTerminating": pod.get("activeDeadlineSeconds") is None,
        "Terminating": pod.get("activeDeadlineSeconds") is not None,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }.get(scope, False)


def _of_kind(amounts: Amounts, kind: str) -> Amounts:
    return {key.removeprefix(f"{kind}."): value for key, value in amounts.items() if key.startswith(f"{kind}.")}


def _outside(row: Json, asked: Mapping[str, Amounts], what: str, name: str) -> Iterator[str]:
    for key, most in sorted((row.get("max") or {}).items()):
        value = asked["limits"].get(key)
        if value is None or value > quantity(most):
            says = f"has a limit of {_written(value, key)}" if value is not None else "has no limit"
            yield f"{what} {says} for {key}, and at most {most} is allowed by the LimitRange `{name}`"
    for key, least in sorted((row.get("min") or {}).items()):
        value = asked["requests"].get(key)
        if value is None or value < quantity(least):
            says = f"requests {_written(value, key)}" if value is not None else "requests none"
            yield f"{what} {says} of {key}, and at least {least} is required by the LimitRange `{name}`"
    for key, ratio in sorted((row.get("maxLimitRequestRatio") or {}).items()):
        limit, request = asked["limits"].get(key), asked["requests"].get(key)
        if limit is not None and request and limit / request > quantity(ratio):
            yield (
                f"{what} has a limit for {key} of {limit / request:.3g} times its request, and at most {ratio} times is allowed by the "
                f"LimitRange `{name}`"
            )


def _written(amount: Decimal, word: str) -> str:
    """As a quota writes it: `1500m` of CPU, `64Mi` of memory, else the number."""
    if "memory" in word or "storage" in word:
        for unit, size in (("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
            if amount and amount % size == 0:
                return f"{amount / size:f}{unit}"
    if amount == amount.to_integral_value():
        return f"{int(amount)}"
    return f"{math.ceil(amount * 1000)}m"
