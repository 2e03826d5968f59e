"""Finds templates and charts: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Literal

import orchestrator
from orchestrator.backends.table import BACKENDS, backend

__all__ = ["REPORT_TEMPLATES", "AssetKind", "assets_digest", "assets_dir"]

REPORT_TEMPLATES = "report"
"""The folder of `templates` for reports, which are about what was rendered and no part of it."""

AssetKind = Literal["templates", "charts"]


def assets_dir(kind: AssetKind) -> Path:
    """The folder of `kind`.

    Raises:
        FileNotFoundError: it is in neither place; the installation is broken.
    """
    package = Path(orchestrator.__file__).parent
    for folder in (package / "_assets" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the installation of mlo has no {kind}; install it again")


@cache
def assets_digest() -> str:
    """A digest of all of mlo's own files that determine what is rendered.

    It is part of the keys of `benchmark.server` and `render`, so that these run again after a template, chart or server has
    changed.
    """
    package = Path(orchestrator.__file__).parent
    roots = {
        "backends": package / "backends",
        "charts": assets_dir("charts"),
        "render": package / "render",
        "templates": assets_dir("templates"),
        **{f"{name}-{place}": source for name in BACKENDS for place, source in enumerate(backend(name).sources)},
    }
    content = hashlib.sha256()
    for name, root in roots.items():
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if name == "templates" and path.relative_to(root).parts[:1] == (REPORT_TEMPLATES,):
                continue
            if path.is_file() and path.suffix != ".pyc":
                content.update(f"{name}/{path.relative_to(root).as_posix()}\0".encode())
                content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()
