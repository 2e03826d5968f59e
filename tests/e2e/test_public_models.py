"""Public models that packages carry go from `mlo init` to an answer without an edit, equal to the bare framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "models" / "run.py"


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        pytest.param("nudenet", [], id="a detector whose height and width are multiples of 32"),
        pytest.param("ocr-classifier", [], id="a part of OCR, made by PaddlePaddle"),
        pytest.param(
            "asr-kaldi", ["waveforms_lens"], id="a part of speech recognition, with a smallest length and lengths"
        ),
        pytest.param("plcmos", [], id="the quality of speech, with an output that has no batch"),
        pytest.param("magika", [], id="a classifier of texts by the ids of their bytes"),
        pytest.param("logreg-iris", [], id="a classifier of tables, with an output that is no tensor"),
        pytest.param("centerface", [], id="a detector of faces, of opset 9"),
        pytest.param("silero-vad-op15", [], id="speech or not, with a state and a rate"),
        pytest.param("silero-vad-op18", ["sr"], id="the same, exported anew, with a rate that the graph compares"),
        pytest.param("akiki-vad", [], id="speech or not, by another exporter"),
        pytest.param("aecmos", ["batch_size"], id="the quality of echo cancellation, for a batch of one"),
        pytest.param("wake-melspectrogram", [], id="a LiteRT model of sounds"),
        pytest.param("romanizer-encoder", [], id="the encoder of a transliteration"),
        pytest.param("romanizer-decoder", [], id="and its decoder"),
        pytest.param("tashkeel-bilstm", [], id="a text model that was quantized by its maker"),
    ],
)
def test_a_public_model_applies_as_init_writes_it_and_answers_as_the_bare_framework(
    tmp_path: Path, name: str, asks: list[str]
) -> None:
    found = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), name, "--folder", str(tmp_path / "models"), "--json", str(found)]
    done = subprocess.run([*command, "--time-budget", "5s"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = json.loads(found.read_text(encoding="utf-8"))
    if result["ended"] == "download" and "DO NOT MATCH THE HASHES" not in result["detail"]:
        pytest.skip(f"the package {result['model']['package']} cannot be downloaded: {result['detail'][-300:]}")
    assert result["ended"] == "equal", result["detail"]
    assert [question.split("`")[1] for question in result["questions"]] == asks
