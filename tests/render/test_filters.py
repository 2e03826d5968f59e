"""No value enters a template as free text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest

from orchestrator.render import fill as module
from orchestrator.render.fill import fill


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "assets_dir", lambda _kind: tmp_path)

    def render(text: str, **values: object) -> str:
        (tmp_path / "t").write_text(text)
        return fill("t", values)

    return render


def test_a_value_without_a_filter_is_refused(template: Any) -> None:
    with pytest.raises(ValueError, match="without a filter"):
        template("{{ x }}", x="harmless")


def test_a_value_that_is_missing_is_refused(template: Any) -> None:
    with pytest.raises(jinja2.UndefinedError):
        template("{% if y %}{% endif %}")


@pytest.mark.parametrize(
    ("name", "good", "shown"),
    [
        ("word", "onnx-fp32", "onnx-fp32"),
        ("quoted", "a b: c #d", '"a b: c #d"'),
        ("whole", 8080, "8080"),
        ("number", 0.5, "0.5"),
        ("number", 2.0, "2"),
        ("flag", True, "true"),
        ("path", "/v2/health/ready", "/v2/health/ready"),
        ("quantity", "500m", "500m"),
        ("image", "a.example:5000/b/c:1@sha256:" + "0" * 64, "a.example:5000/b/c:1@sha256:" + "0" * 64),
        ("digest", "a" * 64, "a" * 64),
    ],
)
def test_valid_values_pass(template: Any, name: str, good: object, shown: str) -> None:
    assert template("{{ x | " + name + " }}", x=good) == shown


@pytest.mark.parametrize("name", ["word", "path", "quantity", "image", "digest", "whole", "number", "flag", "quoted"])
@pytest.mark.parametrize(
    "bad", ["a\nRUN x", "a\r", "$(x)", "`x`", "${HOME}", 'a"b', "a\\", "\x00", "\u2028", None, ["a"], b"a"]
)
def test_values_that_would_be_interpreted_are_refused(template: Any, name: str, bad: object) -> None:
    with pytest.raises(ValueError, match=r"is not|cannot be quoted|is neither"):
        template("{{ x | " + name + " }}", x=bad)
