"""What the artifacts need to know of a deployment besides how it is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.spec.types import ImageRef, LabelKey, LabelValue, Name, RegistryPrefix

__all__ = ["Deployment"]


class _Checked(BaseModel):
    """The spec's own patterns once more: what is rendered may come from a file that somebody edited."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    labels: dict[LabelKey, LabelValue]
    replicas: dict[str, int]
    registry: RegistryPrefix | None
    base: ImageRef | None


@dataclass(frozen=True, slots=True)
class Deployment:
    """Who is deployed, how many times, from which image.

    Attributes:
        registry: prefix of the image's name, without a slash at the end; None for an image that stays on the engine.
        base: the image to build on; it must be a Debian with Python 3.11 or later. None for the default.
    """

    name: str
    labels: Mapping[str, str]
    min_replicas: int
    max_replicas: int
    registry: str | None
    base: str | None

    @property
    def repository(self) -> str:
        """The image's name without a tag."""
        return self.name if self.registry is None else f"{self.registry}/{self.name}"

    @staticmethod
    def from_params(params: Mapping[str, Any]) -> Deployment:
        """The `deployment` parameters of the render step.

        Raises:
            ValueError: a value is not what the spec's types allow, or more replicas at least than at most.
        """
        checked = _Checked.model_validate(dict(params))
        low, high = checked.replicas["min"], checked.replicas["max"]
        if not 1 <= low <= high:
            raise ValueError(f"replicas: min is {low} and max is {high}")
        return Deployment(checked.name, checked.labels, low, high, checked.registry, checked.base)
