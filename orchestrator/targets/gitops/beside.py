"""Other deployments in the folder above: whose they are, their markers say, so that no store has to know them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from orchestrator.store.state import PlacementRecord
from orchestrator.targets.gitops.marker import MARKER, GitMarker
from orchestrator.targets.gitops.placement import GitopsPlacement

__all__ = ["beside"]


def beside(placement: PlacementRecord) -> Mapping[str, PlacementRecord]:
    """Name → place of the deployments in the same folder as this one, without it; what cannot be read is nobody's."""
    own = GitopsPlacement.of(placement)
    found = {}
    for file in sorted(Path(own.path).parent.glob(f"*/{MARKER}")):
        try:
            name = GitMarker.model_validate_json(file.read_bytes()).name
        except (OSError, ValidationError):
            continue
        if str(file.parent) != own.path:
            found[name] = own.model_copy(update={"path": str(file.parent)}).record()
    return found
