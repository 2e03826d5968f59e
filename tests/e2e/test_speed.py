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


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """The median CPU time of the whole process over five runs, after one that warms up.

    Not the wall time, which is what counts for people but depends on what else the machine does: benchmarks/ has it.
    """
    taken = []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", *arguments],
            cwd=folder,
            env={**os.environ, "MLO_HOME": str(folder / "home")},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        taken.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(taken[1:])


@pytest.mark.parametrize(
    ("arguments", "limit"), [(("--help",), 0.25), (("validate", "digits.yaml"), 0.25), (("plan", "digits.yaml"), 0.6)]
)
def test_a_command_costs_little(folder: Path, arguments: tuple[str, ...], limit: float) -> None:
    assert cpu_seconds(folder, *arguments) < 2 * limit
