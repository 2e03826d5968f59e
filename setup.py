"""Puts templates/ and charts/ into the wheel as `orchestrator/_assets/`; everything else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent


class BuildWithAssets(build_py):
    """The usual build, then a copy of the folders that live beside the package."""

    def run(self) -> None:
        """Build; an editable installation reads the folders where they are."""
        super().run()
        if self.editable_mode:
            return
        for kind in ("templates", "charts"):
            target = Path(self.build_lib, "orchestrator", "_assets", kind)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(_ROOT / kind, target)


setup(cmdclass={"build_py": BuildWithAssets})
