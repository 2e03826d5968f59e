"""A full disk is reported clearly, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.frameworks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], check=False)
    if done.returncode != 0:
        pytest.skip("this system does not let tests mount a tmpfs")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_an_apply_on_a_full_disk_says_so_and_leaves_the_state_readable(mlo: Mlo, small_disk: Path) -> None:
    home = str(small_disk / "home")
    told = mlo("apply", "digits.yaml", "--yes", code=1, MLO_HOME=home).stderr
    assert "No space left on device" in told or "no space left" in told.lower()
    assert "help:" in told
    assert mlo("status", MLO_HOME=home).stdout == f"nothing is deployed from {home}; try: mlo apply SPEC\n"
