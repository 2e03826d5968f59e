"""A home of its own for each test, and real child processes that use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import orchestrator
from orchestrator.store.home import Home

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / ".mlo")
    home.prepare()
    return home


@pytest.fixture
def spawn(request: pytest.FixtureRequest) -> Spawn:
    """Start Python on a script with arguments; `env` adds to the environment. Killed at the end of the test."""

    def start(script: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(Path(orchestrator.__file__).parents[1]), **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        request.addfinalizer(end)
        return process

    return start
