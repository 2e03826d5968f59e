"""A share of a Gateway's requests for a candidate, by the weights of the release's HTTPRoute."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.targets.kubernetes.connection import Cluster, Json
from orchestrator.targets.kubernetes.objects import candidate_of, namespaced

__all__ = ["give_back_route", "leads_to", "route_of", "routed_share", "share_route"]

_GROUP = "gateway.networking.k8s.io"
_VERSIONS = ("v1", "v1beta1")
_WHOLE = 1000
"""By which weights are multiplied, so that a share of 2.5 % is a whole number."""
_LARGEST = 1_000_000
"""Weight that the Gateway API allows."""


def route_of(cluster: Cluster, namespace: str, name: str, settings: Mapping[str, Any]) -> Json | None:
    """The HTTPRoute of a release; None if it has none, or the cluster does not know the Gateway API.

    Args:
        cluster: where it is.
        namespace: of the release.
        name: of the release, and of its route.
        settings: values of the chart that the spec's `deploy:` sets.
    """
    if not settings.get("httpRoute", {}).get("enabled", False):
        return None
    for version in _VERSIONS:
        if (found := cluster.find(_path(namespace, name, version))) is not None:
            return found
    return None


def leads_to(route: Json) -> bool:
    """Whether a rule of the route sends requests to the release's own Service; somebody may have led all of them elsewhere."""
    return any(_sent(rule, str(route["metadata"]["name"])) for rule in _rules(_without_candidate(route)))


def share_route(cluster: Cluster, namespace: str, route: Json, share: float) -> float:
    """Send that share of what each rule sends to the release's Service to the candidate's; returns the share that it really is.

    Rules that lead elsewhere, and other Services that a rule shares requests among, keep what they get.
    """
    name = str(route["metadata"]["name"])
    weight = min(_WHOLE - 1, max(1, round(share * _WHOLE)))
    rules = copy.deepcopy(_rules(_without_candidate(route)))
    for rule in rules:
        refs = _refs(rule)
        if not _sent(rule, name):
            continue
        whole = min(_WHOLE, max(1, _LARGEST // max(1, *map(_weight, refs))))
        shared: list[Any] = []
        for ref in refs:
            if not _is_service(ref, name):
                shared.append(ref if len(refs) == 1 else {**ref, "weight": _weight(ref) * whole})
                continue
            all_ = _weight(ref) * whole
            candidates = min(all_, max(min(1, all_), round(all_ * weight / _WHOLE)))
            shared.append({**ref, "weight": all_ - candidates})
            shared.append({**ref, "name": candidate_of(name), "weight": candidates})
        rule["backendRefs"] = shared
    _write(cluster, namespace, route, rules)
    return routed_share({**route, "spec": {**route["spec"], "rules": rules}})


def give_back_route(cluster: Cluster, namespace: str, route: Json) -> None:
    """Send all requests to the release's own Service again; a route that does not know the candidate's is not touched."""
    candidate = candidate_of(str(route["metadata"]["name"]))
    if any(_is_service(ref, candidate) for rule in _rules(route) for ref in _refs(rule)):
        _write(cluster, namespace, route, _rules(_without_candidate(route)))


def routed_share(route: Json) -> float:
    """The share of the candidate among what goes to it and to the release; 0 if it has none."""
    name = str(route["metadata"]["name"])
    for rule in _rules(route):
        own, candidates = (_sent(rule, each) for each in (name, candidate_of(name)))
        if candidates:
            return candidates / (own + candidates)
    return 0.0


def _without_candidate(route: Json) -> Json:
    """The route as it was before a share was given, but for weights that say the same in smaller numbers.

    Where somebody has removed the release's own Service from a rule since, it takes the candidate's place again.
    """
    name = str(route["metadata"]["name"])
    candidate = candidate_of(name)
    rules = copy.deepcopy(_rules(route))
    for rule in rules:
        refs = _refs(rule)
        if not any(_is_service(ref, candidate) for ref in refs):
            continue
        if not any(_is_service(ref, name) for ref in refs):
            refs = [{**ref, "name": name} if _is_service(ref, candidate) else ref for ref in refs]
        taken = sum(_weight(ref) for ref in refs if _is_service(ref, candidate))
        kept = [dict(ref) for ref in refs if not _is_service(ref, candidate)]
        for ref in kept:
            if _is_service(ref, name):
                ref["weight"] = _weight(ref) + taken
                taken = 0  # where a rule names the Service twice
        common = math.gcd(*map(_weight, kept))
        for ref in kept:
            if len(kept) == 1:
                ref.pop("weight", None)
            else:
                ref["weight"] = _weight(ref) // max(1, common)
        rule["backendRefs"] = kept
    return {**route, "spec": {**route["spec"], "rules": rules}}


def _rules(route: Json) -> list[Any]:
    return list(route["spec"].get("rules") or ())


def _refs(rule: Json) -> list[Any]:
    return list(rule.get("backendRefs") or ())


def _sent(rule: Json, name: str) -> int:
    """What a rule sends to a Service, as weight."""
    return sum(_weight(ref) for ref in _refs(rule) if _is_service(ref, name))


def _weight(ref: Json) -> int:
    return int(ref.get("weight", 1))


def _is_service(ref: Json, name: str) -> bool:
    return bool(ref["name"] == name and ref.get("kind", "Service") == "Service" and "namespace" not in ref)


def _write(cluster: Cluster, namespace: str, route: Json, rules: list[Any]) -> None:
    version = str(route["apiVersion"]).rpartition("/")[2]
    path = _path(namespace, str(route["metadata"]["name"]), version)
    cluster.call("PATCH", path, {"spec": {"rules": rules}})


def _path(namespace: str, name: str, version: str) -> str:
    return namespaced(f"{_GROUP}/{version}", namespace, "httproutes", name)
