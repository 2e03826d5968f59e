"""The records in a local deployment's folder are read strictly, and refused with a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.targets.local.records import Endpoint
from orchestrator.targets.local.target import LocalTarget


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Endpoint.read(tmp_path) is None
    Endpoint(port=20001).write(tmp_path)
    assert Endpoint.read(tmp_path) == Endpoint(port=20001)


@pytest.mark.parametrize("change", [{"port": "20001"}, {"port": 0}, {"version": 2}, {"more": 1}])
def test_a_record_that_cannot_be_read_names_the_file_and_the_remedy(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / Endpoint.FILE).write_text(json.dumps({"version": 1, "port": 20001, **change}))
    with pytest.raises(DeployFailed) as refused:
        LocalTarget(tmp_path).url()
    told = refused.value.diagnostics[0]
    assert told.code == "E617"
    assert str(tmp_path / "endpoint.json") in told.message
    assert next(iter(change)) in told.cause
    assert "remove the file" in told.remedy
    observed = LocalTarget(tmp_path).observe()
    assert observed.health == "degraded"
    assert "endpoint.json" in observed.reason
    assert LocalTarget(tmp_path).describe().removal.startswith("Stop ")
    content = (tmp_path / Endpoint.FILE).read_bytes()
    (tmp_path / Endpoint.FILE).unlink()
    assert LocalTarget(tmp_path).observe().health == "stopped"
    (tmp_path / Endpoint.FILE).write_bytes(content)
    (left,) = LocalTarget(tmp_path).stop()
    assert "endpoint.json cannot be read, and is removed" in left
    assert LocalTarget(tmp_path).stop() == ()
