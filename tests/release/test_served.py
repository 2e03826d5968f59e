"""`mlo predict` checks inputs against the signature of what serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.release.served import Served, served_by
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, PlacementRecord
from orchestrator.store.store import Store

_SIGNATURE = Signature((Tensor("x", "float32", ("n", 3)),), (Tensor("y", "float32", None),), {"n": (1, 8)}, "n")


def _deployment(backend: str, rendered: str) -> Deployment:
    return Deployment(
        name="digits",
        placement=PlacementRecord(target="local", version=1, settings={}),
        revision=1,
        highest=1,
        backend=backend,
        variant="fp32",
        endpoint="http://127.0.0.1:20001",
        spec_file="/spec.yaml",
        spec_digest="",
        decision_digest="",
        model_digest="",
        rendered_digest=rendered,
    )


_LABELS = dict.fromkeys(("variant", "model_digest", "decision_digest"), "")
_TENSORFLOW: dict[str, Any] = {
    "format": 2,
    "model": {"name": "digits", "signature": _SIGNATURE.as_json(), "labels": _LABELS},
    "cpus": 1,
    "memory": 2**30,
    "devices": 0,
}


@pytest.mark.parametrize(
    ("backend", "file", "document"),
    [
        ("tensorflow-serving", "server.json", _TENSORFLOW),
        ("torchserve", "model-store/digits/signature.json", _SIGNATURE.as_json()),
    ],
)
def test_it_is_read_from_the_folder_that_serves(tmp_path: Path, backend: str, file: str, document: Any) -> None:
    store = Store.open(Home(tmp_path))
    with pytest.raises(DeployFailed, match="digits is not serving"):
        served_by(store, _deployment(backend, "05" * 32))
    with store.scratch_folder() as scratch:
        path = scratch / "out" / "serving" / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(document))
        rendered = store.trees.commit(scratch / "out").digest
    assert served_by(store, _deployment(backend, rendered)) == Served(_SIGNATURE, None, None, None)
