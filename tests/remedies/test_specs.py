"""A spec is mended by doing what the message says, and nothing else is wrong then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.spec.load import load_spec
from tests.remedies.spec_cases import SPEC_CASES, SpecCase, advice


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "digits.safetensors").write_bytes(b"weights")
    (tmp_path / "digits.npz").write_bytes(b"samples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _found(text: str, case: SpecCase, environment: str | None) -> Sequence[Diagnostic]:
    Path("spec.yaml").write_text(text, encoding="utf-8")
    platform = Path("mlo-platform.yaml") if case.platform else None
    if platform is not None:
        platform.write_text(case.platform, encoding="utf-8")
    try:
        return load_spec("spec.yaml", platform=platform, environment=environment).warnings
    except SpecInvalid as error:
        return error.diagnostics


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", SPEC_CASES, ids=[f"{case.code}-{case.told}" for case in SPEC_CASES])
def test_following_the_advice_mends_the_spec(case: SpecCase) -> None:
    before = _found(case.text, case, case.environment)
    assert case.code in {each.code for each in before}, before
    assert len({(each.code, each.span) for each in before}) == len(before), "a fault is told once"
    found = next(each for each in before if each.code == case.code)
    assert case.told in advice(found)

    assert _found(case.follow(case.text, found), case, case.mended) == ()
