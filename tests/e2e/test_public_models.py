"""Public models that packages carry go from `mlo init` to an answer without an edit, equal to the bare framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "models" / "run.py"

MODELS = ("magika", "nudenet", "tashkeel-bilstm", "asr-kaldi", "wake-melspectrogram")
"""Ids of bytes, a stride, rows that depend on each other, a smallest length, and a LiteRT model of open sizes."""


def test_public_models_apply_as_init_writes_them_and_answer_as_the_bare_framework(tmp_path: Path) -> None:
    found = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), *MODELS, "--folder", str(tmp_path / "models"), "--json", str(found)]
    done = subprocess.run([*command, "--time-budget", "5s"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(found.read_text(encoding="utf-8"))
    ended = {each["model"]["name"]: (each["ended"], each["detail"]) for each in results}
    assert {name: where for name, (where, _) in ended.items()} == dict.fromkeys(MODELS, "equal"), ended
