"""The packages of a backend's server with all their dependencies, which an image pins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from orchestrator.machine.packages import PACKAGES

__all__ = ["cpu_indexes", "for_cuda", "image_pins", "installed_closure"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r";.*\bextra\s*==")
_NORMALISED = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!]*")
_ONLY_CUDA = re.compile(r"nvidia-.+|cuda-.+|triton")
"""What a build of PyTorch for CUDA requires and a build for CPUs does not."""


def installed_closure(packages: tuple[str, ...], *, cuda: bool = False) -> dict[str, str]:
    """Package → installed version, for these packages and their dependencies; names normalised as in PEP 503.

    Dependencies that are not installed here (of another platform) are left out, and so are extras.

    Args:
        packages: the direct packages.
        cuda: for CUDA builds, with NVIDIA's libraries, which some of them require as extras.
    """
    found: dict[str, str] = {}
    waiting = [*packages]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        name = for_cuda(name).partition("[")[0] if cuda else name
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        for requirement in distribution.requires or ():
            match = _NAME.match(requirement)
            if match and (not _EXTRA.search(requirement) or (cuda and match[0].startswith("nvidia-"))):
                waiting.append(match[0])
    return dict(sorted(found.items()))


def for_cuda(package: str) -> str:
    """The requirement that replaces a package for CUDA, with extras: some CUDA builds are distributions of another name."""
    row = PACKAGES.get(package)
    return package if row is None or row.cuda is None else row.cuda.requirement or package


def image_pins(imported: tuple[str, ...], tools: Mapping[str, str], *, cuda: bool) -> list[str]:
    """The requirements of an image, sorted: `name==version` for what was measured, and the name alone for the rest.

    The local part of a version (`2.13.0+cu130`) is omitted, since only some indexes have such builds, and the pin matches them
    too. Where a package has a build for CPUs with a local part of its own, that one is pinned for an image that computes on CPUs:
    the build that pip would take from its default index brings gigabytes of CUDA.

    Args:
        imported: what the server imports.
        tools: package → version, as measured.
        cuda: whether it is for CUDA; a build for CUDA may have another name, and CUDA and cuDNN as extras.

    Raises:
        ValueError: a name or version is not valid.
    """
    pins: dict[str, str] = dict.fromkeys(imported, "")
    for package, version in tools.items():
        name = re.sub(r"[-_.]+", "-", package).lower()
        public = version.partition("+")[0]
        if not _NORMALISED.fullmatch(name) or not _VERSION.fullmatch(public):
            raise ValueError(f"{package} {version!r} is not a valid package and version")
        row = PACKAGES.get(name)
        local = "" if cuda or row is None or row.cpu is None else f"+{row.cpu.local}"
        pins[name] = f"=={public}{local}"
    for package in [*pins] if cuda else ():
        if (requirement := for_cuda(package)) != package:
            pin = pins.pop(package)
            pins[requirement] = pins.pop(requirement.partition("[")[0], pin)
    if cpu_indexes(pins) and not cuda:
        pins = {name: pin for name, pin in pins.items() if not _ONLY_CUDA.fullmatch(name)}
    return [f"{name}{pin}" for name, pin in sorted(pins.items())]


def cpu_indexes(packages: Iterable[str]) -> tuple[str, ...]:
    """The indexes that have builds of these packages for CPUs, besides pip's default one."""
    rows = (PACKAGES.get(package) for package in packages)
    return tuple(sorted({row.cpu.index for row in rows if row is not None and row.cpu is not None}))
