"""The chart's values for one release of a revision: those that were rendered, its image, its number, and what a candidate differs in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import yaml

from orchestrator.store.atomic import canonical_json
from orchestrator.store.digest import sha256_bytes
from orchestrator.targets.chart_values import merged
from orchestrator.targets.target import Release

__all__ = ["ALONE", "alone", "chart_values", "named_account", "settings_digest"]

ALONE: Mapping[str, Any] = MappingProxyType(
    {
        "replicas": {"min": 1, "max": 1},
        # Only load balancers and ports of nodes take these, and DNS or balancers of clouds are told by annotations.
        "service": {
            "type": "ClusterIP",
            **dict.fromkeys(
                (
                    "nodePort",
                    "externalTrafficPolicy",
                    "loadBalancerClass",
                    "loadBalancerSourceRanges",
                    "labels",
                    "annotations",
                )
            ),
        },
        # KServe is not needed to prove the same pod.
        "inferenceService": {"enabled": False},
        "ingress": {"enabled": False},
        "httpRoute": {"enabled": False},
        "serviceMonitor": {"enabled": False},
        "prometheusRule": {"enabled": False},
        "dashboard": {"enabled": False},
        # Two budgets of one pod block every eviction: that of the release covers pods that its Service selects.
        "podDisruptionBudget": {"enabled": False},
    }
)
"""What a candidate differs in: one pod, and nothing that others would find. None removes a value."""


def named_account(settings: Mapping[str, Any]) -> str:
    """The ServiceAccount that a release brings under a name that the spec gives it; empty for none."""
    account = settings.get("serviceAccount", {})
    return str(account.get("name", "")) if account.get("create", True) else ""


def alone(*, account_exists: bool, shares_with: str = "") -> Mapping[str, Any]:
    """What a candidate differs in.

    Args:
        account_exists: whether the release has already brought the ServiceAccount of `named_account`, which two releases cannot
            own; the candidate then only uses it.
        shares_with: the release of whose traffic it is to take a share; only then its selectors differ, because charts that were
            rendered by older versions do not know that value.
    """
    values = merged(ALONE, {"serviceAccount": {"create": False}}) if account_exists else ALONE
    return merged(values, {"candidate": {"of": shares_with}}) if shares_with else values


def chart_values(
    release: Release, name: str, settings: Mapping[str, Any], more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The values of one Helm release.

    Args:
        release: the revision.
        name: of the Helm release, and of all its objects.
        settings: what the spec's `deploy:` sets.
        more: values that take precedence.
    """
    rendered = yaml.safe_load((release.rendered / "values.yaml").read_text(encoding="utf-8"))
    model = {"revision": release.revision, "settings": settings_digest(settings)}
    own = {"model": model, "image": _image(release), "fullnameOverride": name}
    return _together(merged(merged(rendered, settings), own), more)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """By which what is deployed is known to have these settings; empty for none."""
    return sha256_bytes(canonical_json(dict(settings))) if settings else ""


def _image(release: Release) -> dict[str, str]:
    """By its digest where a registry has it, else by the tag that the nodes' engine knows."""
    if release.image is None:
        raise ValueError(f"revision {release.revision} has no image")
    repository, _, tag = release.image.name.rpartition(":")
    return {"repository": repository, "tag": tag, "digest": release.image.digest or ""}


def _together(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in more.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = _together(old if isinstance(old, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged
