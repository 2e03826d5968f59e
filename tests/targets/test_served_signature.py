"""`mlo predict` checks inputs against the signature of what serves."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.served import served_signature

_SIGNATURE = Signature((Tensor("x", "float32", ("n", 3)),), (Tensor("y", "float32", None),), {"n": (1, 8)}, "n")


@pytest.mark.parametrize(
    ("backend", "file", "document"),
    [
        ("onnxruntime", "server.json", {"model": {"signature": _SIGNATURE.as_json()}}),
        ("torchserve", "model-store/digits/signature.json", _SIGNATURE.as_json()),
    ],
)
def test_it_is_read_from_the_folder_that_serves(tmp_path: Path, backend: str, file: str, document: Any) -> None:
    home = cast("Any", SimpleNamespace(deployments=tmp_path))
    deployment = cast("Any", SimpleNamespace(name="digits"))
    with pytest.raises(DeployFailed, match="digits does not serve"):
        served_signature(home, deployment)
    path = tmp_path / "serving" / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    recipe = {"revision": 1, "backend": backend, "name": "digits", "threads": 1, "startup_seconds": 9}
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "serving.json").write_text(json.dumps({**recipe, "serving": str(tmp_path / "serving")}))
    assert served_signature(home, deployment) == _SIGNATURE
