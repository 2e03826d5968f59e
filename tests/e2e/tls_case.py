"""What the tests of deployments with a certificate share: a model, a client of others, and where a key was kept."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.render.served import negative

if TYPE_CHECKING:
    from tests.e2e.conftest import Mlo

__all__ = ["REQUEST", "curl", "files_with", "negated", "put_model"]

REQUEST = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]})
"""To the model, in the Open Inference Protocol."""


def put_model(folder: Path) -> None:
    """A model that negates three numbers, its samples, and a request with 1, 2 and 3 for `mlo predict`."""
    (folder / "negative.onnx").write_bytes(negative())
    np.savez(folder / "negative.npz", x=np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32))
    (folder / "request.json").write_text(json.dumps({"x": [[1, 2, 3]]}), encoding="utf-8")


def negated(mlo: Mlo, name: str) -> Any:
    """What `mlo predict` gets for that request from a deployment."""
    return mlo.json("predict", name, "--input", str(mlo.folder / "request.json"), "--json")["outputs"]


def curl(port: int | None, name: str, trust: Path) -> str:
    """The status that curl gets from a model, by the host name that the certificate is for; what curl says if it gets none.

    Args:
        port: on loopback.
        name: of the model.
        trust: the file with the certificate that is trusted.
    """
    url = f"https://localhost:{port}/v2/models/{name}/infer"
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--cacert", str(trust)]
    command += ["--write-out", "%{http_code}", "--output", os.devnull, "--data", REQUEST, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else done.stderr


def files_with(folder: Path, secret: bytes) -> list[Path]:
    """The files below a folder, of which there are some, that hold these bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if secret in path.read_bytes()]
