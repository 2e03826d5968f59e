"""Takes what was rendered live: start beside the former revision, prove with real requests, switch, remember."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.engine.events import Observer, StepEnded, StepProgress, StepStarted, Waiting
from orchestrator.engine.live import observe
from orchestrator.errors import DeployFailed
from orchestrator.plan.resolve import Outcome
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.state import Deployment, Intent, Revision, State, StateFile, boot_id
from orchestrator.store.trees import TreeStore

__all__ = ["Released", "release"]


@dataclass(frozen=True, slots=True)
class Released:
    """A deployment after apply.

    Attributes:
        changed: whether anything was done.
        decision: decision.json.
        artifacts: the folder with everything that was rendered.
    """

    deployment: Deployment
    changed: bool
    decision: Mapping[str, Any]
    artifacts: Path
    chart: Path

    def as_json(self) -> dict[str, Any]:
        """One entry of `mlo apply --json`."""
        return {
            "name": self.deployment.name,
            "revision": self.deployment.revision,
            "backend": self.deployment.backend,
            "variant": self.deployment.variant,
            "endpoint": self.deployment.endpoint,
            "decision": dict(self.decision),
            "artifacts": str(self.artifacts),
        }
