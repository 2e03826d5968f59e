"""The factory is the user's code: its errors are reported with file and line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.frameworks.source.user_code import build
from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import PROJECT, run, saved

pytestmark = pytest.mark.frameworks

FACTORY = ("model", "source", "factory")


@pytest.mark.parametrize(
    ("code", "factory", "message", "cause", "remedy"),
    [
        ("E310", "source_model:Linear", "no module `source_model`", "spec's folder", "did you mean `source_models`?"),
        ("E310", "nowhere.at_all:Linear", "no module `nowhere`", "spec's folder", "put nowhere.py beside the spec"),
        ("E310", "source_raising:Model", "OSError: no licence file", "source_raising.py:1", "correct the code"),
        ("E311", "source_models:Linea", "`source_models` has no `Linea`", "source_models.py", "did you mean `Linear`?"),
        ("E311", "source_models:Linear.make", "`Linear` has no `make`", "source_models.py", ""),
        ("E312", "source_models:NOT_CALLABLE", "does not build a model", "int", "class or a function"),
        ("E312", "source_models:BUILT", "does not build a model", "Linear, already built", "class or a function"),
        ("E314", "source_models:raising", "RuntimeError: no weights at depth 1", "source_models.py:", "correct"),
        (
            "E314",
            "source_models:downloading",
            "URLError: <urlopen error",
            "source_models.py:",
            "runs without a network",
        ),
        ("E315", "source_models:not_a_model", "does not return a torch.nn.Module", "a dict", "return the model"),
    ],
)
def test_a_factory_that_does_not_return_a_model_is_refused(
    tmp_path: Path, code: str, factory: str, message: str, cause: str, remedy: str
) -> None:
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "pytorch", "factory": factory}, saved("Linear", tmp_path))
    error = caught.value
    assert (error.code, error.at) == (code, FACTORY)
    assert message in error.message
    assert cause in error.cause
    assert remedy in error.remedy


@pytest.mark.parametrize(
    ("factory", "kwargs", "at", "cause"),
    [
        ("Linear", {"wide": 5}, ("model", "source", "kwargs"), "unexpected keyword argument 'wide'"),
        ("Returns", {}, FACTORY, "missing a required argument: 'what'"),
    ],
)
def test_unknown_arguments_of_the_factory_are_reported_with_its_signature(
    tmp_path: Path, factory: str, kwargs: dict[str, Any], at: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(StepError) as caught:
        run(
            tmp_path,
            {"kind": "pytorch", "factory": f"source_models:{factory}", "kwargs": kwargs},
            saved("Linear", tmp_path),
        )
    assert (caught.value.code, caught.value.at) == ("E313", at)
    assert cause in caught.value.cause
    assert "its signature is (" in caught.value.remedy


def test_the_line_that_raised_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        build("source_models:raising", {"depth": 7}, PROJECT)
    lines = (PROJECT / "source_models.py").read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "no weights at depth" in line)
    assert caught.value.cause == f"raised at source_models.py:{number} in raising"


def test_a_syntax_error_is_reported_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "source_broken_syntax.py").write_text("x = 1\ndef broken(:\n", encoding="utf-8")
    with pytest.raises(StepError) as caught:
        build("source_broken_syntax:broken", {}, tmp_path)
    assert caught.value.code == "E310"
    assert "SyntaxError" in caught.value.message
    assert caught.value.cause == "raised at source_broken_syntax.py:2"


def test_a_package_that_the_users_code_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "source_importing.py").write_text("import package_that_nobody_has\n", encoding="utf-8")
    with pytest.raises(StepError) as caught:
        build("source_importing:Model", {}, tmp_path)
    assert (caught.value.code, caught.value.at) == ("E310", FACTORY)
    assert "No module named 'package_that_nobody_has'" in caught.value.message
    assert caught.value.cause == "raised at source_importing.py:1 in <module>"
    assert "install the package that provides `package_that_nobody_has`" in caught.value.remedy


def test_a_module_that_exits_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "source_script.py").write_text("import sys\nsys.exit(2)\n", encoding="utf-8")
    with pytest.raises(StepError) as caught:
        build("source_script:Model", {}, tmp_path)
    assert caught.value.message == "importing `source_script` raised SystemExit: 2"
    assert caught.value.cause.startswith("raised at source_script.py:2")


def test_an_installed_package_may_build_the_model() -> None:
    assert type(build("torch.nn:Linear", {"in_features": 4, "out_features": 3}, PROJECT)).__name__ == "Linear"
