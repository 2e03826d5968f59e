"""Where templates and charts lie: beside the package in a checkout, inside it where a wheel is installed."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import orchestrator
from orchestrator.backends.table import BACKENDS, backend

__all__ = ["AssetKind", "assets_digest", "assets_dir"]

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


@cache
def assets_digest() -> str:
    """A digest over everything of mlo's own that ends up in what is rendered, or writes it.

    It is part of the keys of `benchmark.server` and `render`: a changed template, chart or server is not served from
    what an earlier one left.
    """
    package = Path(orchestrator.__file__).parent
    roots = {
        "backends": package / "backends",
        "charts": assets_dir("charts"),
        "render": package / "render",
        "templates": assets_dir("templates"),
        **{f"{name}-{place}": source for name in BACKENDS for place, source in enumerate(backend(name).sources)},
    }
    told = hashlib.sha256()
    for name, root in roots.items():
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                told.update(f"{name}/{path.relative_to(root).as_posix()}\0".encode())
                told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()
