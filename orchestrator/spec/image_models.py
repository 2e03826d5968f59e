"""The section `image`: registry, base, and how the image is built."""

# No `from __future__ import annotations`: as in `models.py`.
from pydantic import Field

from orchestrator.spec.strict import Strict
from orchestrator.spec.types import ImageRef, IndexUrl, NetworkName, PythonVersion, RegistryPrefix, RelPath

__all__ = ["Image", "ImageBuild"]


class ImageBuild(Strict):
    """How the image is built behind a proxy, from a private package index, or without a network."""

    pip_index: IndexUrl | None = Field(
        default=None,
        description="Package index that mlo fetches wheels from on this machine, with pip's own credentials.",
        examples=["https://pypi.example.com/simple"],
    )
    wheelhouse: RelPath | None = Field(
        default=None, description="Folder of wheels that all packages are installed from, without an index."
    )
    ca_bundle: RelPath | None = Field(
        default=None, description="File with the certificates that pip trusts, on this machine and in the build."
    )
    network: NetworkName | None = Field(
        default=None, description="Docker network of the build's commands, such as `none` or `host`."
    )
    python: PythonVersion | None = Field(
        default=None, description="Python version of the base, if its name does not say it."
    )


class Image(Strict):
    """Registry and base of the images."""

    registry: RegistryPrefix | None = Field(default=None, description="Registry and path that images are pushed to.")
    base: ImageRef | None = Field(default=None, description="Base image for serving images.")
    build: ImageBuild = Field(default={}, validate_default=True)
