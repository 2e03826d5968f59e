"""An environment for the peers that are not among mlo's packages: mlo's own packages, and what requirements.txt adds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["cache_folder", "peers_python"]

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def cache_folder() -> Path:
    """The folder of this benchmark in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlo-peerbench"


def peers_python(cache: Path) -> Path:
    """The environment's Python; the environment is made if it is missing or the requirements have changed."""
    folder = cache / "environment"
    # Of the folder itself, not of a link to it, so that another working tree with the same packages finds the environment.
    packages = str(Path(sysconfig.get_path("purelib")).resolve())
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + packages.encode() + sys.version.encode()).hexdigest()
    mark, python = folder / "requirements.sha256", folder / "bin" / "python"
    if mark.is_file() and mark.read_text(encoding="ascii") == wanted:
        return python
    print(
        f"installing {' and '.join(_named())} into {folder}, an environment of their own beside mlo's packages",
        flush=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # mlo's packages come after the environment's own, so that they are found and not installed again.
    Path(inside.stdout.strip(), "mlo-packages.pth").write_text(packages + "\n", encoding="utf-8")
    # Quiet twice: errors only.
    subprocess.run([python, "-m", "pip", "install", "-qq", "--requirement", str(REQUIREMENTS)], check=True)
    mark.write_text(wanted, encoding="ascii")
    return python


def _named() -> list[str]:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
