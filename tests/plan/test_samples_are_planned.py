"""Names, types, shapes and rows of samples are compared with the model while planning: by the headers of the arrays alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.engine.planning import make_plan
from orchestrator.errors import SpecInvalid
from orchestrator.spec.sample_arrays import ArrayHeader, array_headers
from orchestrator.store.home import Home
from orchestrator.store.store import Store

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: ranker}
model:
  source: {kind: torchscript, weights: model.pt}
  inputs:
    - {name: image, dtype: float32, shape: [batch, 8, width]}
    - {name: word, dtype: string, shape: [batch]}
  outputs: [{name: score, shape: [batch]}]
  dims: {batch: {min: 1, max: 64}, width: {min: 4, max: 16, multiple_of: 4}}
  samples: samples.npz
"""
IMAGES, WORDS = np.zeros((3, 8, 12), np.float32), np.array(["a", "b", "c"])


def planned(folder: Path, samples: dict[str, Any]) -> None:
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (folder / "model.pt").write_bytes(b"a model")
    if samples:
        np.savez(folder / "samples.npz", **samples)
    make_plan(folder / "spec.yaml", Store.open(Home(folder / "home")))


@pytest.mark.parametrize(
    ("samples", "code", "message", "cause", "remedy"),
    [
        ({"picture": IMAGES, "word": WORDS}, "E341", "no array for the input `image`", "`picture`, `word`", "numpy.savez"),
        ({"images": IMAGES, "word": WORDS}, "E341", "no array for the input `image`", "`images`", "rename `images`, or"),
        ({"image": IMAGES.astype(str), "word": WORDS}, "E342", "`image` is <U", "cannot be cast", "save it as float32"),
        ({"image": IMAGES, "word": np.arange(3)}, "E342", "`word` does not hold texts", "int64", "array.astype(str)"),
        ({"image": IMAGES[:, :7], "word": WORDS}, "E343", "[3, 7, 12], but [rows, 8, width]", "1 is 7, but 8", "correct"),
        ({"image": IMAGES[..., :6], "word": WORDS}, "E343", "[3, 8, 6]", "`width` is a multiple of 4", "correct"),
        ({"image": IMAGES[0], "word": WORDS}, "E343", "[8, 12]", "it has 2 dimensions, but 3", "correct"),
        ({"image": IMAGES, "word": WORDS[:2]}, "E344", "different numbers of rows", "`word` has 2", "one entry per sample"),
        ({"image": IMAGES[:0], "word": WORDS[:0]}, "E344", "no rows", "", "at least one"),
        ({"image": IMAGES, "word": WORDS, "labels": np.arange(2)}, "E345", "but there are 3 rows", "", "one label per row"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused_with_the_line(
    tmp_path: Path, samples: dict[str, Any], code: str, message: str, cause: str, remedy: str
) -> None:
    with pytest.raises(SpecInvalid) as refused:
        planned(tmp_path, samples)
    (problem,) = refused.value.diagnostics
    assert problem.code == code
    assert message in problem.message
    assert cause in problem.cause
    assert remedy in problem.remedy
    assert problem.span is not None
    assert problem.span.line == 11


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid) as refused:
        planned(tmp_path, {"word": np.arange(3)})
    assert [each.code for each in refused.value.diagnostics] == ["E341", "E342"]


def test_samples_that_fit_are_planned_whatever_else_the_file_holds(tmp_path: Path) -> None:
    planned(tmp_path, {"image": IMAGES.astype(np.float64), "word": WORDS, "labels": np.arange(3), "more": np.zeros(7)})


@pytest.mark.parametrize(("content", "cause"), [(b"", "empty"), (b"not an archive", "not a zip file")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(SpecInvalid) as refused:
        planned(tmp_path, {})
    assert refused.value.diagnostics[0].code == "E340"
    assert cause in refused.value.diagnostics[0].cause


def test_a_damaged_archive_is_refused_as_such(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "samples.npz", image=np.random.default_rng(0).random((3, 8, 12)), word=WORDS)
    whole = (tmp_path / "samples.npz").read_bytes()
    entry = whole.index(b"PK\x01\x02")
    # Marked as encrypted, compressed in an unknown way, and with damaged data.
    for place, damage in ((entry + 8, b"\x01"), (entry + 10, b"\x63"), (62, b"\xff" * 200)):
        (tmp_path / "samples.npz").write_bytes(whole[:place] + damage + whole[place + len(damage) :])
        with pytest.raises(SpecInvalid) as refused:
            planned(tmp_path, {})
        assert [each.code for each in refused.value.diagnostics] == ["E340"]


def test_types_without_a_counterpart_are_named(tmp_path: Path) -> None:
    for image, dtype in (
        (IMAGES.astype("M8[s]"), "<M8[s]"),
        (np.zeros((3, 8, 12), [("a", "f4"), ("b", "i4")]), "structured"),
    ):
        with pytest.raises(SpecInvalid) as refused:
            planned(tmp_path, {"image": image, "word": WORDS})
        assert refused.value.diagnostics[0].code == "E342"
        assert dtype in refused.value.diagnostics[0].message


def test_headers_are_those_that_numpy_writes(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "floats": np.zeros((2, 3), np.float16),
        "number": np.array(5, np.uint8),
        "one": np.zeros(4, np.int64),
        "truth": np.zeros((1, 0), bool),
        "words": np.array(["abc"]),
        "bytes": np.array([b"abc"]),
        "fortran": np.asfortranarray(np.zeros((2, 3))),
        "big": np.zeros(2, ">f4"),
    }
    np.savez(tmp_path / "some.npz", **arrays)
    found = array_headers(tmp_path / "some.npz")
    wanted = {name: ArrayHeader(a.dtype.kind, str(a.dtype), a.shape) for name, a in arrays.items() if name != "big"}
    assert {name: header for name, header in found.items() if name != "big"} == wanted
    assert found["big"] == ArrayHeader("f", "float32", (2,))


@pytest.mark.processes
def test_reading_headers_needs_no_numpy() -> None:
    code = "import sys, orchestrator.spec.sample_arrays, json; print(json.dumps('numpy' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
