"""The demo of the digits: what its user sees of an mlo that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "specs" / "digits" / "demo.py"
MLO = """\
#!/bin/sh
trap 'sleep 0.3; echo "error[E407]: interrupted" >&2; exit 130' INT
touch began
while :; do sleep 0.05; done
"""


@pytest.mark.processes
def test_an_interrupted_demo_waits_for_mlo_and_ends_as_it_does(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    demo = tmp_path / "specs" / DEMO.name
    demo.write_bytes(DEMO.read_bytes())
    (tmp_path / "mlo").write_text(MLO)
    (tmp_path / "mlo").chmod(0o755)
    # As from a virtual environment, where mlo lies beside its interpreter.
    run = f"import runpy, sys; sys.executable = {str(tmp_path / 'python')!r}; runpy.run_path({str(demo)!r}, run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 60
        while not (demo.parent / "began").exists():
            assert time.monotonic() < until, "the demo did not begin"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "error[E407]: interrupted\n")
