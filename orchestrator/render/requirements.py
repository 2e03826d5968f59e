"""The packages of an image, at exactly the measured versions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.backends.table import backend
from orchestrator.backends.versions import for_cuda

if TYPE_CHECKING:
    from orchestrator.backends.backend import ServingSettings

__all__ = ["requirements"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!]*")


def requirements(settings: ServingSettings) -> str:
    """requirements.txt: measured packages are pinned; others that a server imports have no version.

    The local part of a version (`2.13.0+cpu`) is omitted: such builds are in separate indexes, which are given when the
    image is built, and the pin matches them too. A build for CUDA may have another name, and CUDA and cuDNN as extras.

    Raises:
        ValueError: a name or version is not valid.
    """
    pins: dict[str, str] = dict.fromkeys(backend(settings.backend).tools, "")
    for package, version in settings.tools.items():
        name = re.sub(r"[-_.]+", "-", package).lower()
        public = version.partition("+")[0]
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(public):
            raise ValueError(f"{package} {version!r} is not a valid package and version")
        pins[name] = f"=={public}"
    for package in [*pins] if settings.devices else ():
        if (requirement := for_cuda(package)) != package:
            pin = pins.pop(package)
            pins[requirement] = pins.pop(requirement.partition("[")[0], pin)
    return "".join(f"{name}{pin}\n" for name, pin in sorted(pins.items()))
