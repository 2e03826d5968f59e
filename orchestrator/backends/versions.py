"""The packages of a backend's server with all their dependencies, which an image pins."""

from __future__ import annotations

import re
from importlib import metadata

from orchestrator.machine.packages import PACKAGES

__all__ = ["for_cuda", "installed_closure"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r";.*\bextra\s*==")


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
