"""The command line answers quickly. The figures stand in benchmarks/; here a regression by a factor of two fails."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speed")
    for name in ("digits.yaml", "digits.npz", "digits.safetensors", "digits_model.py"):
        shutil.copy(ROOT / "specs" / "digits" / name, path / name)
    # As an installation has it: the bytecode is there already.
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "orchestrator")], check=True)
    return path


IMPORTS = ("-c", "import pydantic, yaml, click")
"""What every command that reads a spec imports."""


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """The CPU time of a Python process.

    Not the wall time, which is what counts for people but depends on what else the machine does: benchmarks/ has it.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env={**os.environ, "MLO_HOME": str(folder / "home")},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("arguments", "times"), [(("--help",), 1.4), (("validate", "digits.yaml"), 4), (("plan", "digits.yaml"), 8)]
)
def test_a_command_costs_little(folder: Path, arguments: tuple[str, ...], times: float) -> None:
    # In turns, after one of each that warms up: machines differ, and become slower and faster, but both alike.
    taken = [
        (cpu_seconds(folder, "-m", "orchestrator.cli", *arguments), cpu_seconds(folder, *IMPORTS)) for _ in range(6)
    ]
    ratio = statistics.median(command / imports for command, imports in taken[1:])
    assert ratio < times
