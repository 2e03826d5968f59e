"""The table of formats is complete: every function it names exists, every combination is made or refused."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.backends.table import backend, backends_of
from orchestrator.frameworks.source.runtime import RUNTIMES
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.sources import SOURCES
from orchestrator.optimize.transform import Transform, Unsupported
from orchestrator.spec.gates import Precision
from orchestrator.spec.models import Format
from orchestrator.spec.source_models import SourceKind

FUNCTIONS = sorted(
    {
        transform.function
        for row in FORMATS.values()
        for transform in (*row.convert.values(), *row.precisions.values())
        if isinstance(transform, Transform) and transform.function is not None
    }
    | {backend(each).runtimes[name].function for name in FORMATS for each in backends_of(name)}
    | {function for row in SOURCES.values() for function in (row.inspect, row.check, row.baseline)}
)


def test_every_format_of_the_spec_has_a_row() -> None:
    assert set(FORMATS) == set(get_args(Format))


def test_every_kind_of_source_of_the_spec_has_a_row() -> None:
    assert set(SOURCES) == set(get_args(SourceKind))


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_covers_every_source_and_precision(name: str) -> None:
    row = FORMATS[name]

    assert row.name == name
    assert set(row.convert) == set(SOURCES)
    assert set(row.precisions) == set(get_args(Precision))
    assert backends_of(name)
    for transform in (*row.convert.values(), *row.precisions.values()):
        if isinstance(transform, Unsupported):
            assert transform.reason
            assert not transform.reason.endswith(".")
        elif transform.function is not None:
            assert transform.tools


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_that_is_named_exists(function: str) -> None:
    """Told from the source: to import it would bring PyTorch and TensorFlow into one process."""
    module, _, attribute = function.partition(":")
    spec = importlib.util.find_spec(module)

    assert spec is not None, module
    assert spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    assert attribute in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_conversions_open_their_result_with_the_runtime_of_the_usual_backend() -> None:
    usual = {name: backend(backends_of(name)[0]).runtimes[name].function for name in FORMATS}
    assert usual == RUNTIMES


def test_files_of_formats_differ() -> None:
    assert len({row.file for row in FORMATS.values()}) == len(FORMATS)
