"""The values of a Helm release: rendered, then the spec's settings, then what says which revision it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.values import ALONE, chart_values, settings_digest
from orchestrator.targets.target import Release

SETTINGS = {
    "nodeSelector": {"pool": "models"},
    "replicas": {"targetCpuPercent": 50},
    "ingress": {"enabled": True, "hosts": ["digits.example.com"]},
    "service": {"type": "LoadBalancer"},
}


@pytest.fixture
def release(tmp_path: Path) -> Release:
    rendered = {"replicas": {"min": 2, "max": 4, "targetCpuPercent": 70}, "model": {"name": "digits"}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(rendered))
    (tmp_path / "serving").mkdir()
    image = Image(name="registry.example.com/digits:1", id="sha256:" + "a" * 64, digest=None, platform="linux/amd64")
    return Release(3, tmp_path / "serving", "onnxruntime", "digits", 1, 60, image)


def values(release: Release, **more: Any) -> dict[str, Any]:
    return chart_values(release, "digits", SETTINGS, **more)


def test_the_specs_settings_are_over_what_was_rendered(release: Release) -> None:
    found = values(release)
    assert found["nodeSelector"] == {"pool": "models"}
    assert found["replicas"] == {"min": 2, "max": 4, "targetCpuPercent": 50}
    assert found["model"] == {"name": "digits", "revision": 3, "settings": settings_digest(SETTINGS)}


def test_a_candidate_is_placed_alike_but_reached_by_nobody(release: Release) -> None:
    found = values(release, more=ALONE)
    assert found["nodeSelector"] == {"pool": "models"}
    assert found["ingress"]["enabled"] is False
    assert found["service"]["type"] == "ClusterIP"


def test_settings_are_known_by_their_digest(release: Release) -> None:
    assert settings_digest({}) == ""
    assert settings_digest(SETTINGS) == settings_digest(dict(reversed(SETTINGS.items())))
    assert settings_digest(SETTINGS) != settings_digest({**SETTINGS, "nodeSelector": {}})
