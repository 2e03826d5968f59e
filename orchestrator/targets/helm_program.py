"""Where Helm's program is: the same for all that runs it or says whether it is there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

__all__ = ["helm_program"]


def helm_program() -> str | None:
    """Its path, on PATH or beside this interpreter, where `make tools` puts it; None if it is not installed."""
    return shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))
