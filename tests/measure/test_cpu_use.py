"""What a measurement knows of other processes on its CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.machine.cpu_use import CpuTime, cpu_time

STAT = """cpu  1200 100 300 8000 200 0 50 150 0 0
cpu0 600 50 150 4000 100 0 25 75 200 0
cpu1 600 50 150 4000 100 0 25 75 0 0
intr 12345
"""


def test_time_is_that_of_the_named_cpus_and_stolen_time_is_busy(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT)
    second = os.sysconf("SC_CLK_TCK")
    assert cpu_time((0,), stat) == CpuTime(busy=900 / second, total=5000 / second)  # guests are counted once
    assert cpu_time((0, 1), stat) == CpuTime(busy=1800 / second, total=10_000 / second)


@pytest.mark.parametrize("content", [None, "intr 12345\n", STAT.replace("cpu1", "cpu7"), "cpu0 1 2\ncpu1 1 2\n"])
def test_without_the_kernels_word_nothing_is_claimed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "stat").write_text(content)
    assert cpu_time((0, 1), tmp_path / "stat") is None


def test_another_process_is_seen() -> None:
    cpu = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        before = cpu_time((cpu,))
        time.sleep(0.5)
        after = cpu_time((cpu,))
        hog.kill()
    assert before is not None
    assert after is not None
    # This process sleeps, so that the CPU was busy for others.
    assert after.busy - before.busy > 0.5 * (after.total - before.total)
