"""Commands on a spec that asks for more GPUs than there are, here or almost anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import conforms

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = pytest.mark.processes


@pytest.fixture
def spec(project: Path) -> str:
    """The digits spec for a replica with 16 GPUs."""
    text = (project / "digits.yaml").read_text()
    assert "hardware: {cpus: 2, memory: 2Gi}" in text
    gpus = "hardware: {cpus: 16, memory: 2Gi, accelerator: cuda, count: 16}"
    (project / "gpus.yaml").write_text(text.replace("hardware: {cpus: 2, memory: 2Gi}", gpus))
    return "gpus.yaml"


def test_such_a_spec_is_valid_everywhere(mlo: Mlo, spec: str) -> None:
    mlo("validate", spec)


@pytest.mark.parametrize("command", [("plan",), ("apply", "--yes"), ("render", "--output", "out")])
def test_what_needs_the_gpus_is_refused_before_anything_runs(mlo: Mlo, spec: str, command: tuple[str, ...]) -> None:
    said = mlo(command[0], spec, *command[1:], code=65).stderr
    assert "error[E205]: the spec asks for 16 GPUs, which this machine lacks" in said
    assert "plan, apply or render on a machine that has them" in " ".join(said.split())
    assert "^" in said


def test_the_refusal_is_json_too(mlo: Mlo, spec: str) -> None:
    document = json.loads(mlo("plan", spec, "--json", code=65).stdout)
    conforms(document, "errors")
    assert document["errors"][0]["code"] == "E205"


def test_the_code_is_explained(mlo: Mlo) -> None:
    assert "Plan and apply on a machine that has them" in " ".join(mlo("explain", "E205").stdout.split())
