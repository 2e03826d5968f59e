"""What the spec says about the image of its release."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.spec.load import LoadedSpec

__all__ = ["BuildSettings", "build_settings", "image_settings"]

_PYTHON_OF_BASE = re.compile(r"(?:.*/)?python:(3\.\d+)[^/]*")
_DEFAULT_PYTHON = "3.11"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How an image is built, as far as the rendered tree does not say it.

    Attributes:
        repository: registry, path and name of the image, without a tag.
        push: whether it is pushed to the registry.
        network: of the build's commands, as Docker names it; None for the engine's default.
        pip_index: where the machine that runs mlo fetches wheels from; None if the build itself asks the default index.
        wheelhouse: folder with all wheels; None if there is none.
        ca_bundle: file with the certificates of authorities that pip trusts, here and in the build; None for pip's own.
        python: version of Python in the base, such as `3.11`.
    """

    repository: str
    push: bool = False
    network: str | None = None
    pip_index: str | None = None
    wheelhouse: Path | None = None
    ca_bundle: Path | None = None
    python: str = _DEFAULT_PYTHON


def build_settings(loaded: LoadedSpec) -> BuildSettings | None:
    """The settings for a release; None if the spec's target takes no images."""
    return None if loaded.spec.deploy.takes_image == "no" else image_settings(loaded)


def image_settings(loaded: LoadedSpec) -> BuildSettings:
    """The settings of a spec, whatever its target takes."""
    spec = loaded.spec
    image, build = spec.image, spec.image.build
    name = spec.metadata.name
    named = None if image.base is None else _PYTHON_OF_BASE.fullmatch(image.base)

    def path(relative: str | None) -> Path | None:
        return None if relative is None else spec.path(relative, loaded.folder)

    return BuildSettings(
        repository=name if image.registry is None else f"{image.registry}/{name}",
        push=spec.deploy.takes_image == "pushed" and image.registry is not None,
        network=build.network,
        pip_index=build.pip_index,
        wheelhouse=path(build.wheelhouse),
        ca_bundle=path(build.ca_bundle),
        python=build.python or (_DEFAULT_PYTHON if named is None else named[1]),
    )
