"""How images are built, as parameters of the steps that render and measure them."""

from __future__ import annotations

from pathlib import Path

from orchestrator.images.settings import image_settings
from orchestrator.machine.here import Here
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import ModelDeployment
from orchestrator.steps.parameters import BuildParameters, ImageParameters, Platform

__all__ = ["build_parameters", "image_parameters", "image_platform"]


def image_platform(here: Here) -> Platform:
    """What images run on: the platform of the machine that measures."""
    return "linux/arm64" if here.fingerprint["architecture"] in {"aarch64", "arm64"} else "linux/amd64"


def image_parameters(spec: ModelDeployment, here: Here) -> ImageParameters:
    """For the platform of this machine, which is the one that is measured on."""
    return ImageParameters(
        platform=image_platform(here),
        wheels=spec.image.build.wheelhouse is not None or spec.image.build.pip_index is not None,
        ca_bundle=spec.image.build.ca_bundle is not None,
        hashes=dict(here.hashes.known),
        unlocked=here.hashes.unlocked,
    )


def build_parameters(loaded: LoadedSpec, here: Here) -> BuildParameters:
    """For images of servers that are measured in containers."""
    settings = image_settings(loaded)

    def absolute(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return BuildParameters(
        name=loaded.spec.metadata.name,
        base=loaded.spec.image.base,
        image=image_parameters(loaded.spec, here),
        network=settings.network,
        pip_index=settings.pip_index,
        wheelhouse=absolute(settings.wheelhouse),
        ca_bundle=absolute(settings.ca_bundle),
        python=settings.python,
    )
