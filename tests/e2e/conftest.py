"""Runs the real command line in a folder of its own, and takes its deployments down afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.render.conftest import render_to

__all__ = ["DIGITS", "ROOT", "Mlo", "mlo", "render_to"]

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "specs" / "digits"


@dataclass(frozen=True)
class Mlo:
    """The command line, run in `folder` with its store in `folder/home`."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "MLO_HOME": str(self.folder / "home"), "NO_COLOR": "1"}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", *arguments],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, timeout: float = 280, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, code=code).stdout)


@pytest.fixture(scope="module")
def mlo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlo]:
    runner = Mlo(tmp_path_factory.mktemp("mlo"))
    yield runner
    for deployment in json.loads(runner.start("status", "--json").communicate(timeout=60)[0] or '{"deployments": []}')[
        "deployments"
    ]:
        runner.run("destroy", deployment["name"], "--yes")
