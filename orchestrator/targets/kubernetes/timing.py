"""How long a rolling update may take: its pods start one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["rollout_seconds", "update_seconds"]

Json = Mapping[str, Any]

_MIN_READY = 5
"""Seconds that the chart wants a pod to stay ready before the next one is replaced."""


def rollout_seconds(deployment: Json, wait: float) -> float:
    """Seconds for the pods of a Deployment, by its own probes, to be replaced.

    Args:
        deployment: the object.
        wait: seconds that a pod may take to get a node and its image.
    """
    spec = deployment["spec"]
    startup = max((_startup(each) for each in spec["template"]["spec"]["containers"]), default=0.0)
    strategy = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    pods = int(spec.get("replicas", 1))
    return _seconds(wait + startup + int(spec.get("minReadySeconds", 0)), pods, strategy)


def update_seconds(startup: float, values: Json, live: Json | None, wait: float) -> float:
    """The same for an upgrade that has yet to begin.

    Args:
        startup: bound on loading and warming up one pod, in seconds.
        values: of the chart.
        live: the Deployment as it is, of which an autoscaler may have made more pods; None if there is none.
        wait: seconds that a pod may take to get a node and its image.
    """
    pods = int((values.get("replicas") or {}).get("min", 1))
    if live is not None:
        pods = max(pods, int(live["spec"].get("replicas", 1)))
    return _seconds(wait + startup + _MIN_READY, pods, values.get("rollout") or {})


def _seconds(each: float, pods: int, strategy: Json) -> float:
    at_once = _count(strategy.get("maxSurge", 1), pods) + _count(strategy.get("maxUnavailable", 0), pods)
    return each * max(1, math.ceil(pods / max(1, at_once)))


def _count(share: object, pods: int) -> int:
    """A number, or a percentage of the pods."""
    text = str(share)
    return int(pods * int(text[:-1]) / 100) if text.endswith("%") else int(text)


def _startup(container: Json) -> float:
    probe = container.get("startupProbe") or {}
    return (
        float(
            int(probe.get("initialDelaySeconds", 0))
            + int(probe.get("failureThreshold", 3)) * int(probe.get("periodSeconds", 10))
        )
        if probe
        else 0.0
    )
