"""Helm's own record of a release, from the Secret in which Helm keeps it."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.objects import namespaced

__all__ = ["HelmRecord", "read_record"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HelmRecord:
    """The newest revision of a release.

    Attributes:
        status: Helm's word, such as `deployed`.
        objects: what it consists of, as Helm rendered it; without hooks, such as the pod of `helm test`.
    """

    status: str
    objects: tuple[Json, ...]


def read_record(cluster: Cluster, namespace: str, release: str) -> HelmRecord | None:
    """The newest record; None if there is none, or this user may not see it, or Helm keeps its records elsewhere."""
    try:
        found = cluster.get(namespaced("v1", namespace, "secrets"), labelSelector=f"owner=helm,name={release}")["items"]
    except Refused:
        return None
    newest = max(found, key=lambda each: int(each["metadata"]["labels"].get("version", 0)), default=None)
    if newest is None:
        return None
    packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
    record = json.loads(gzip.decompress(packed))
    objects = tuple(each for each in yaml.safe_load_all(record.get("manifest") or "") if isinstance(each, dict))
    return HelmRecord(str(newest["metadata"]["labels"].get("status", "")), objects)
