"""Where templates and charts lie: beside the package in a checkout, inside it where a wheel is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import orchestrator

__all__ = ["AssetKind", "assets_dir"]

AssetKind = Literal["templates", "charts"]


def assets_dir(kind: AssetKind) -> Path:
    """The folder of `kind`.

    Raises:
        FileNotFoundError: neither place has it: the installation is broken.
    """
    package = Path(orchestrator.__file__).parent
    for folder in (package / "_assets" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation lacks its {kind}; install mlo again")
