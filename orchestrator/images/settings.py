"""What the spec says about the image of its release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.spec.models import ModelDeployment

__all__ = ["BuildSettings", "build_settings"]


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How an image is built, as far as the rendered tree does not say it.

    Attributes:
        repository: registry, path and name of the image, without a tag.
        push: whether it is pushed to the registry.
    """

    repository: str
    push: bool


def build_settings(spec: ModelDeployment) -> BuildSettings | None:
    """The settings of a spec; None if its target takes no images."""
    if spec.deploy.takes_image == "no":
        return None
    registry = spec.image.registry
    repository = spec.metadata.name if registry is None else f"{registry}/{spec.metadata.name}"
    return BuildSettings(repository, push=spec.deploy.takes_image == "pushed" and registry is not None)
